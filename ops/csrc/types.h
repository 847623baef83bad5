// From the type of a tensor to types of the compiler.
#pragma once

#include <ATen/core/Tensor.h>

namespace focalsr {

// Calls f(A{}, T{}) for the type T of tensors and the type A of all arithmetic: float for half precision.
template <class F>
void by_type(const char* name, at::ScalarType type, F&& f) {
  switch (type) {
    case at::kFloat: return f(float{}, float{});
    case at::kDouble: return f(double{}, double{});
    case at::kHalf: return f(float{}, at::Half{});
    case at::kBFloat16: return f(float{}, at::BFloat16{});
    default: TORCH_CHECK(false, name, ": ", type, " is not supported");
  }
}

}  // namespace focalsr
