// Widening to fp32, n elements.
template <class T>
DISTILL_INLINE void widen_any(const T* from, float* into, int64_t n) {
  int64_t i = 0;
  for (; i + W <= n; i += W) store(into + i, load(from + i));
  if (i < n) store_part(into + i, n - i, load_part(from + i, n - i, 0.f));
}

void widen(const bf16* from, float* into, int64_t n) { widen_any(from, into, n); }
void widen(const fp16* from, float* into, int64_t n) { widen_any(from, into, n); }
