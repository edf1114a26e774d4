// Host functions that launch the kernels: raw pointers, sizes, a stream. No torch and no CUDA header. Each returns 0 or
// the runtime's error code.
#pragma once

#include <cstdint>

extern "C" {

enum distill_dtype : int32_t { DISTILL_FLOAT32 = 0, DISTILL_BFLOAT16 = 1, DISTILL_FLOAT16 = 2 };

constexpr int distill_max_k = 1024;

// ids, top [rows, k] and tails [rows, n_temperatures] of logits [rows, >= n_valid]: the k largest of the first n_valid
// entries of each row, and the logsumexp of the others per temperature. 0 <= k <= min(n_valid, distill_max_k),
// n_valid < 2^32 - 1. Reads the logits once per four temperatures.
int distill_topk_rows(const void* logits, int32_t dtype, int64_t rows, int64_t row_stride, int64_t n_valid, int32_t k,
                      const double* temperatures, int32_t n_temperatures, int64_t* ids, float* top, float* tails,
                      void* stream);


// sums [n_rows, 3] of a list of tensors: <a, b>, <a, a>, <b, b> of every row; for difference != 0 the sums of (a - b)^2 and
// |a - b|, and 0. `table`, in device memory: eight int64 a tensor, which are the pointers a, b, g, the number of rows before
// it, its rows, their length, the dtype, 0. Rows are contiguous; every tensor has rows.
int distill_match_rows(const void* table, int64_t n_tensors, int64_t n_rows, int32_t difference, double* sums,
                       void* stream);

// g = by[r, 0] a + by[r, 1] b + by[r, 2] sign(a - b) for every row r of the same table.
int distill_combine_rows(const void* table, int64_t n_tensors, int64_t n_rows, const double* by, void* stream);

// Doubles of scratch that distill_project_signs wants.
int64_t distill_project_scratch(int64_t samples, int64_t features, int64_t dim);

// total [samples, dim] (from 0 for first != 0) plus the signed sums of x [samples, features]; out = total * scale where out
// is not null. Signs are those of global features first_feature, first_feature + 1, ...
int distill_project_signs(const void* x, int32_t dtype, int64_t samples, int64_t row_stride, int64_t features,
                          int64_t dim, int64_t seed, int64_t first_feature, int32_t first, double* scratch,
                          double* total, float* out, double scale, void* stream);

// ids, weights [rows, k] drawn from softmax(logits / temperature) over the first n_valid entries: threshold sampling, or
// k multinomial draws. Random numbers of (seed, row_keys[r]). 0 <= k <= distill_max_k, n_valid < 2^32 - 1.
int distill_sample_rows(const void* logits, int32_t dtype, int64_t rows, int64_t row_stride, int64_t n_valid, int32_t k,
                        int32_t multinomial, double temperature, int64_t seed, const int64_t* row_keys, int64_t* ids,
                        float* weights, void* stream);

// Rows of packed sequences of a store. `words` [n_words] and `table` [sequences, 16] lie in device memory; a line of the
// table: the first of its rows and their number, for the columns counts, ids, ids_sorted, values, tail and entropy the
// word each begins at, then their bytes, then two zeros. Columns begin at whole words; zeros fill their last one. Lines go
// by first row. method: 0 top-k, 1 threshold, 2 multinomial. value_step: the grid of logits.
//
// ids, values [rows, k]; tail [rows, n_temperatures], threshold: the weight of a sampled entry (n_temperatures = 1);
// entropy [rows] or null. gaps [rows, k] and starts [3, rows] are scratch. status [sequences, 4]: 0, or the columns that
// were refused, as bits. No byte outside the columns is read, whatever they hold.
int distill_unpack_rows(const int64_t* words, int64_t n_words, const int64_t* table, int64_t sequences, int64_t rows,
                        int64_t k, int32_t method, int64_t vocabulary, const double* temperatures,
                        int32_t n_temperatures, double value_step, int64_t* ids, float* values, float* tail,
                        float* entropy, int64_t* gaps, int64_t* starts, int32_t* status, void* stream);

}
