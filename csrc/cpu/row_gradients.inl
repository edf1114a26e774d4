// Gradients of a row, support columns included: the caller overwrites those by `scatter`.

// Sum of the terms, the mean's part, the slope of a soft cap.
DISTILL_INLINE Lanes gradient_of(Lanes z, const GradientTerm* terms, int64_t n_terms, float add, float inverse_cap,
                                 float scale) {
  Lanes d = all(add);
  for (int64_t k = 0; k < n_terms; ++k) {
    const Lanes x = z * terms[k].inverse_t - terms[k].shift;
    d += exponential(x) * (larger(all(-88.f), x) * terms[k].slope + terms[k].factor);
  }
  const Lanes capped = z * inverse_cap;
  return inverse_cap == 0.f ? d * scale : d * (1.f - capped * capped) * scale;
}

template <class T>
DISTILL_INLINE void row_gradient_any(const T* z, T* out, int64_t columns, const GradientTerm* terms, int64_t n_terms,
                                     float add, float inverse_cap, float scale) {
  int64_t i = 0;
  if (n_terms == 1 && terms[0].slope == 0.f && add == 0.f && inverse_cap == 0.f) {
    const float inverse_t = terms[0].inverse_t, shift = terms[0].shift, factor = terms[0].factor * scale;
    for (; i + G <= columns; i += G) {
      Group g = load_group(z + i);
      for (int j = 0; j < 4; ++j) g.at[j] = exponential(g.at[j] * inverse_t - shift) * factor;
      store_group(out + i, g, G);
    }
  } else {
    for (; i + G <= columns; i += G) {
      Group g = load_group(z + i);
      for (int j = 0; j < 4; ++j) g.at[j] = gradient_of(g.at[j], terms, n_terms, add, inverse_cap, scale);
      store_group(out + i, g, G);
    }
  }
  if (i < columns) {
    Group g = load_group_part(z + i, columns - i, 0.f);
    for (int j = 0; j < 4; ++j) g.at[j] = gradient_of(g.at[j], terms, n_terms, add, inverse_cap, scale);
    store_group(out + i, g, columns - i);
  }
}

template <class T>
DISTILL_INLINE void row_rescale_any(const float* exponentials, T* out, int64_t columns, const float* factors, float add) {
  for (int64_t b = 0; b * block_columns < columns; ++b) {
    const int64_t first = b * block_columns;
    const int64_t n = columns - first < block_columns ? columns - first : block_columns;
    const float factor = factors[b];
    const float* const e = exponentials + first;
    int64_t i = 0;
    for (; i + G <= n; i += G) {
      Group g = load_group(e + i);
      for (int j = 0; j < 4; ++j) g.at[j] = g.at[j] * factor + add;
      store_group(out + first + i, g, G);
    }
    if (i < n) {
      Group g = load_group_part(e + i, n - i, 0.f);
      for (int j = 0; j < 4; ++j) g.at[j] = g.at[j] * factor + add;
      store_group(out + first + i, g, n - i);
    }
  }
}

#define DISTILL_DEFINE_ROW_GRADIENTS(T)                                                                                 \
  void row_gradient(const T* z, T* out, int64_t columns, const GradientTerm* terms, int64_t n_terms, float add,         \
                    float inverse_cap, float scale) {                                                                   \
    row_gradient_any(z, out, columns, terms, n_terms, add, inverse_cap, scale);                                         \
  }                                                                                                                     \
  void row_rescale(const float* exponentials, T* out, int64_t columns, const float* factors, float add) {               \
    row_rescale_any(exponentials, out, columns, factors, add);                                                          \
  }                                                                                                                     \
  void scatter(const float* from, const int64_t* columns, int64_t n, T* into) {                                         \
    for (int64_t i = 0; i < n; ++i)                                                                                     \
      if (columns[i] >= 0) write(into + columns[i], from[i]);                                                           \
  }

DISTILL_DEFINE_ROW_GRADIENTS(float)
DISTILL_DEFINE_ROW_GRADIENTS(bf16)
DISTILL_DEFINE_ROW_GRADIENTS(fp16)
#undef DISTILL_DEFINE_ROW_GRADIENTS
