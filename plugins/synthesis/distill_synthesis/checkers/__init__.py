"""Checkers: is an answer right?"""
