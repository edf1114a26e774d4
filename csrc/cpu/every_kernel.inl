// All kernels, in the namespace DISTILL_ISA of the instruction set that the including file has chosen.
namespace distill::DISTILL_ISA {
#include "lanes.inl"
#include "convert.inl"
#include "gradient_match.inl"
#include "random_projection.inl"
#include "row_sums.inl"
#include "row_gradients.inl"
#include "thin_products.inl"
#include "keys.inl"
#include "topk_sweep.inl"
#include "topk_select.inl"
#include "topk.inl"
#include "sample.inl"
}  // namespace distill::DISTILL_ISA
