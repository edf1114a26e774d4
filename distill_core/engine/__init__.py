"""Runs: from a run file to a student, stage by stage.

Where to start reading:

- ``run_file/``: what can be said before anything runs. No torch, and nothing of the other modules here.
- ``plan``, ``run``, ``stages``, ``manifest``: the stages in order, which of them must run, and what each calls.
- ``prepare``, ``data``, ``selection``, ``features/``: records become sequences on disk; which of them are learned from.
- ``capture``, ``stored``, ``capture_update``, ``joint_capture``, ``vocabulary``: what teachers say, kept in stores.
- ``training``, ``trainer``, ``head``, ``head_pass``, ``objectives``, ``sources``, ``checkpoints``: the student learns.
- ``evaluation``, ``row_pass``, ``totals``, ``statistics``, ``flags``: models are judged on the same held-out rows.

Planning and validation import neither torch nor transformers.
"""
