// Products with a small inner or outer dimension: a block of accumulators stays in registers.
//
// Every number is summed in one order, whatever block it falls in.

constexpr int THIN_VECTORS = W == 16 ? 4 : 2;   // registers side by side: 16 accumulators of 32 registers, 8 of 16
constexpr int THIN_DEEP = W == 16 ? 8 : 4;      // rows of the weight's gradient at a time, THIN_DEEP x 2 accumulators
constexpr int THIN_ROWS = W == 16 ? 4 : 2;      // rows of the hidden gradient at a time, THIN_ROWS x 4 accumulators

// J registers from p; where not `full`, one register of n < W numbers, the other lanes 0.
template <int J, bool full>
DISTILL_INLINE void thin_load(const float* p, int64_t n, Lanes* x) {
  static_assert(full || J == 1, "one register at the end");
#pragma GCC unroll 8
  for (int j = 0; j < J; ++j) x[j] = full ? load(p + j * W) : load_part(p, n, 0.f);
}

template <int J, bool full>
DISTILL_INLINE void thin_store(float* p, int64_t n, const Lanes* x) {
#pragma GCC unroll 8
  for (int j = 0; j < J; ++j) {
    if (full) store(p + j * W, x[j]);
    else store_part(p, n, x[j]);
  }
}

template <int R, int J, bool full>
DISTILL_INLINE void thin_logits_block(Strided hidden, int64_t depth, Strided weight, const float* bias, StridedOut z,
                                      int64_t n) {
  Lanes sum[R][J], w[J];
  for (int j = 0; j < J; ++j) w[j] = all(0.f);
  if (bias) thin_load<J, full>(bias, n, w);
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r)
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) sum[r][j] = w[j];
  for (int64_t d = 0; d < depth; ++d) {
    thin_load<J, full>(weight.at + d * weight.stride, n, w);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const float h = hidden.at[r * hidden.stride + d];
#pragma GCC unroll 8
      for (int j = 0; j < J; ++j) sum[r][j] += w[j] * h;
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < R; ++r) thin_store<J, full>(z.at + r * z.stride, n, sum[r]);
}

template <int R>
DISTILL_INLINE void thin_logits_rows(Strided hidden, int64_t depth, Strided weight, const float* bias, StridedOut z,
                                     int64_t columns) {
  constexpr int J = THIN_VECTORS;
  int64_t c = 0;
  const auto at = [&](int64_t first) __attribute__((always_inline)) { return bias ? bias + first : nullptr; };
  for (; c + J * W <= columns; c += J * W)
    thin_logits_block<R, J, true>(hidden, depth, {weight.at + c, weight.stride}, at(c), {z.at + c, z.stride}, W);
  for (; c + W <= columns; c += W)
    thin_logits_block<R, 1, true>(hidden, depth, {weight.at + c, weight.stride}, at(c), {z.at + c, z.stride}, W);
  if (c < columns)
    thin_logits_block<R, 1, false>(hidden, depth, {weight.at + c, weight.stride}, at(c), {z.at + c, z.stride}, columns - c);
}

void thin_logits(Strided hidden, int64_t rows, int64_t depth, Strided weight, const float* bias, StridedOut z,
                 int64_t columns) {
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4)
    thin_logits_rows<4>({hidden.at + r * hidden.stride, hidden.stride}, depth, weight, bias,
                        {z.at + r * z.stride, z.stride}, columns);
  for (; r < rows; ++r)
    thin_logits_rows<1>({hidden.at + r * hidden.stride, hidden.stride}, depth, weight, bias,
                        {z.at + r * z.stride, z.stride}, columns);
}

template <int R, int D>
DISTILL_INLINE void thin_hidden_block(Strided dz, Strided weight, int64_t columns, float* into, int64_t depth) {
  Lanes sum[R][D];
  for (int r = 0; r < R; ++r)
    for (int d = 0; d < D; ++d) sum[r][d] = all(0.f);
  const auto step = [&](auto get) __attribute__((always_inline)) {
    Lanes w[D];
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) w[d] = get(weight.at + d * weight.stride);
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Lanes g = get(dz.at + r * dz.stride);
#pragma GCC unroll 8
      for (int d = 0; d < D; ++d) sum[r][d] += g * w[d];
    }
  };
  int64_t c = 0;
  for (; c + W <= columns; c += W) step([&](const float* p) __attribute__((always_inline)) { return load(p + c); });
  if (c < columns)
    step([&](const float* p) __attribute__((always_inline)) { return load_part(p + c, columns - c, 0.f); });
  for (int r = 0; r < R; ++r)
    for (int d = 0; d < D; ++d) into[r * depth + d] = total(sum[r][d]);
}

template <int R>
DISTILL_INLINE void thin_hidden_rows(Strided dz, int64_t depth, Strided weight, int64_t columns, float* into) {
  int64_t d = 0;
  for (; d + 4 <= depth; d += 4)
    thin_hidden_block<R, 4>(dz, {weight.at + d * weight.stride, weight.stride}, columns, into + d, depth);
  for (; d < depth; ++d)
    thin_hidden_block<R, 1>(dz, {weight.at + d * weight.stride, weight.stride}, columns, into + d, depth);
}

void thin_hidden_gradient(Strided dz, int64_t rows, int64_t depth, Strided weight, int64_t columns, float* into) {
  int64_t r = 0;
  for (; r + THIN_ROWS <= rows; r += THIN_ROWS)
    thin_hidden_rows<THIN_ROWS>({dz.at + r * dz.stride, dz.stride}, depth, weight, columns, into + r * depth);
  for (; r < rows; ++r)
    thin_hidden_rows<1>({dz.at + r * dz.stride, dz.stride}, depth, weight, columns, into + r * depth);
}

template <int D, int J, bool full>
DISTILL_INLINE void thin_weight_block(Strided dz, Strided hidden, int64_t rows, StridedOut into, int64_t n, bool add) {
  Lanes sum[D][J], g[J];
#pragma GCC unroll 8
  for (int d = 0; d < D; ++d) {
#pragma GCC unroll 8
    for (int j = 0; j < J; ++j) sum[d][j] = all(0.f);
    if (add) thin_load<J, full>(into.at + d * into.stride, n, sum[d]);
  }
  for (int64_t r = 0; r < rows; ++r) {
    thin_load<J, full>(dz.at + r * dz.stride, n, g);
#pragma GCC unroll 8
    for (int d = 0; d < D; ++d) {
      const float h = hidden.at[r * hidden.stride + d];
#pragma GCC unroll 8
      for (int j = 0; j < J; ++j) sum[d][j] += g[j] * h;
    }
  }
#pragma GCC unroll 8
  for (int d = 0; d < D; ++d) thin_store<J, full>(into.at + d * into.stride, n, sum[d]);
}

// All depths for J registers of columns before the next: the columns of dz stay in cache.
template <int J, bool full>
DISTILL_INLINE void thin_weight_columns(Strided dz, Strided hidden, int64_t rows, int64_t depth, StridedOut into,
                                        int64_t n, bool add) {
  int64_t d = 0;
  for (; d + THIN_DEEP <= depth; d += THIN_DEEP)
    thin_weight_block<THIN_DEEP, J, full>(dz, {hidden.at + d, hidden.stride}, rows,
                                          {into.at + d * into.stride, into.stride}, n, add);
  for (; d < depth; ++d)
    thin_weight_block<1, J, full>(dz, {hidden.at + d, hidden.stride}, rows, {into.at + d * into.stride, into.stride}, n, add);
}

void thin_weight_gradient(Strided dz, Strided hidden, int64_t rows, int64_t depth, StridedOut into, int64_t columns,
                          bool add) {
  int64_t c = 0;
  for (; c + 2 * W <= columns; c += 2 * W)
    thin_weight_columns<2, true>({dz.at + c, dz.stride}, hidden, rows, depth, {into.at + c, into.stride}, W, add);
  for (; c + W <= columns; c += W)
    thin_weight_columns<1, true>({dz.at + c, dz.stride}, hidden, rows, depth, {into.at + c, into.stride}, W, add);
  if (c < columns)
    thin_weight_columns<1, false>({dz.at + c, dz.stride}, hidden, rows, depth, {into.at + c, into.stride}, columns - c, add);
}
