// A type of devices for tests that has memory and nothing else: no streams, no generator, no statistics, no pinned
// memory, no float64. It computes with the kernels of the CPU, on copies; its tensors are on a device of their own.
// torch.ops.stand_in.limit(bytes): how much more may be allocated.

#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/native/CPUFallback.h>
#include <ATen/native/Resize.h>
#include <ATen/native/TensorShape.h>
#include <ATen/ops/_reshape_alias_native.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/convolution.h>
#include <ATen/ops/convolution_backward.h>
#include <ATen/ops/set_native.h>
#include <ATen/ops/unfold_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/alloc_cpu.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <atomic>
#include <cstring>
#include <limits>

namespace {

constexpr auto kStandIn = c10::DeviceType::PrivateUse1;

std::atomic<int64_t> in_use{0}, limit{std::numeric_limits<int64_t>::max()};
constexpr size_t kHead = 64;  // bytes before each block, which hold its size

void release(void* data) {
  auto* block = static_cast<char*>(data) - kHead;
  in_use -= static_cast<int64_t>(*reinterpret_cast<size_t*>(block));
  c10::free_cpu(block);
}

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    const c10::Device device(kStandIn, 0);
    if (bytes == 0) return {nullptr, nullptr, &c10::detail::deleteNothing, device};
    TORCH_CHECK(in_use + static_cast<int64_t>(bytes) <= limit, "the stand-in is out of memory");
    in_use += static_cast<int64_t>(bytes);
    auto* block = static_cast<char*>(c10::alloc_cpu(bytes + kHead));
    *reinterpret_cast<size_t*>(block) = bytes;
    return {block + kHead, block + kHead, &release, device};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &release; }
  void copy_data(void* to, const void* from, size_t count) const override { std::memcpy(to, from, count); }
};

// One device with one stream, on which everything is done at once.
struct Guard : c10::impl::NoOpDeviceGuardImpl<kStandIn> {
  c10::Device exchangeDevice(c10::Device) const override { return {kStandIn, 0}; }
  c10::Device getDevice() const override { return {kStandIn, 0}; }
  c10::Stream getStream(c10::Device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, {kStandIn, 0});
  }
  c10::Stream exchangeStream(c10::Stream) const noexcept override { return getStream({kStandIn, 0}); }
  void record(void**, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {}
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void*) const override { return true; }
};

Memory memory;
REGISTER_ALLOCATOR(kStandIn, &memory)
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard)

struct Hooks final : at::PrivateUse1HooksInterface {
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
};

Hooks hooks;
const bool kHooked = (at::RegisterPrivateUse1HooksInterface(&hooks), true);

c10::ScalarType supported(std::optional<c10::ScalarType> dtype) {
  const auto type = c10::dtype_or_default(dtype);
  TORCH_CHECK_TYPE(type != c10::ScalarType::Double, "the stand-in has no float64");
  return type;
}

at::Tensor empty(c10::IntArrayRef size, std::optional<c10::ScalarType> dtype, std::optional<c10::Layout>,
                 std::optional<c10::Device>, std::optional<bool> pinned, std::optional<c10::MemoryFormat> format) {
  TORCH_CHECK(!c10::pinned_memory_or_default(pinned), "the stand-in has no pinned memory");
  return at::detail::empty_generic(size, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1), supported(dtype),
                                   format);
}

at::Tensor empty_strided(c10::IntArrayRef size, c10::IntArrayRef stride, std::optional<c10::ScalarType> dtype,
                         std::optional<c10::Layout>, std::optional<c10::Device>, std::optional<bool> pinned) {
  TORCH_CHECK(!c10::pinned_memory_or_default(pinned), "the stand-in has no pinned memory");
  return at::detail::empty_strided_generic(size, stride, &memory, c10::DispatchKeySet(c10::DispatchKey::PrivateUse1),
                                           supported(dtype));
}

// The same memory as a tensor of the CPU.
at::Tensor on_cpu(const at::Tensor& x) {
  if (x.device().is_cpu()) return x;
  const auto bytes = x.storage().nbytes();
  auto storage = c10::Storage(c10::Storage::use_byte_size_t(), bytes,
                              c10::DataPtr(x.storage().mutable_data(), c10::Device(c10::kCPU)));
  auto result = at::detail::make_tensor<c10::TensorImpl>(std::move(storage),
                                                         c10::DispatchKeySet(c10::DispatchKey::CPU), x.dtype());
  result.unsafeGetTensorImpl()->set_sizes_and_strides(x.sizes(), x.strides(), x.storage_offset());
  return result;
}

at::Tensor& set_storage(at::Tensor& x, c10::Storage source) {
  const auto count = static_cast<int64_t>(source.nbytes() / x.element_size());
  return at::native::set_storage_cpu_(x, std::move(source), 0, {count}, {});
}

at::Tensor copy_from(const at::Tensor& from, const at::Tensor& to, bool) {
  on_cpu(to).copy_(on_cpu(from));
  return to;
}

const at::Tensor& resize_to(const at::Tensor& x, c10::IntArrayRef size, std::optional<c10::MemoryFormat> format) {
  const int64_t count = c10::multiply_integers(size);
  const auto bytes = (count + x.storage_offset()) * x.element_size();
  auto* storage = x.storage().unsafeGetStorageImpl();
  if (storage->nbytes() < static_cast<size_t>(bytes)) {
    auto grown = memory.allocate(bytes);
    if (storage->nbytes() > 0) std::memcpy(grown.get(), storage->data(), storage->nbytes());
    storage->set_data_ptr_noswap(std::move(grown));
    storage->set_nbytes(bytes);
  }
  x.unsafeGetTensorImpl()->set_sizes_contiguous(size);
  if (format && *format != c10::MemoryFormat::Preserve) x.unsafeGetTensorImpl()->empty_tensor_restride(*format);
  return x;
}

at::Tensor copy_from_and_resize(const at::Tensor& from, const at::Tensor& to) {
  if (to.sizes() != from.sizes()) resize_to(to, from.sizes(), std::nullopt);
  return copy_from(from, to, false);
}

at::Tensor on_stand_in(const at::Tensor& x) { return x.to(c10::Device(kStandIn, 0)); }

// Convolutions of other devices do not reach the fallback.
at::Tensor convolution(const at::Tensor& x, const at::Tensor& weight, const std::optional<at::Tensor>& bias,
                       c10::SymIntArrayRef stride, c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation,
                       bool transposed, c10::SymIntArrayRef output_padding, c10::SymInt groups) {
  const auto cpu_bias = bias && bias->defined() ? std::optional(on_cpu(*bias)) : std::nullopt;
  return on_stand_in(at::convolution_symint(on_cpu(x), on_cpu(weight), cpu_bias, stride, padding, dilation, transposed,
                                            output_padding, groups));
}

std::tuple<at::Tensor, at::Tensor, at::Tensor> convolution_backward(
    const at::Tensor& gradient, const at::Tensor& x, const at::Tensor& weight, c10::SymIntArrayRef stride,
    c10::SymIntArrayRef padding, c10::SymIntArrayRef dilation, bool transposed, c10::SymIntArrayRef output_padding,
    c10::SymInt groups, std::array<bool, 3> wanted) {
  const std::vector<c10::SymInt> biases{transposed ? weight.sym_size(1) * groups : weight.sym_size(0)};
  const auto found =
      at::convolution_backward_symint(on_cpu(gradient), on_cpu(x), on_cpu(weight), c10::SymIntArrayRef(biases), stride,
                                      padding, dilation, transposed, output_padding, groups, wanted);
  const auto moved = [](const at::Tensor& y) { return y.defined() ? on_stand_in(y) : y; };
  return {moved(std::get<0>(found)), moved(std::get<1>(found)), moved(std::get<2>(found))};
}

at::Scalar value_of(const at::Tensor& x) { return on_cpu(x).item(); }

void by_the_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) { at::native::cpu_fallback(op, stack, true); }

void set_limit(int64_t bytes) { limit = in_use + bytes; }

TORCH_LIBRARY(stand_in, m) { m.def("limit(int bytes) -> ()", &set_limit); }

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&by_the_cpu>()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", TORCH_FN(empty));
  m.impl("empty_strided", TORCH_FN(empty_strided));
  m.impl("as_strided", TORCH_FN(at::native::as_strided_tensorimpl));
  m.impl("view", TORCH_FN(at::native::view));
  m.impl("_reshape_alias", TORCH_FN(at::native::_reshape_alias));
  m.impl("unfold", TORCH_FN(at::native::unfold));
  m.impl("resize_", TORCH_FN(resize_to));
  m.impl("set_.source_Storage", TORCH_FN(set_storage));
  m.impl("set_.source_Storage_storage_offset", TORCH_FN(at::native::set_storage_cpu_));
  m.impl("convolution_overrideable", TORCH_FN(convolution));
  m.impl("convolution_backward_overrideable", TORCH_FN(convolution_backward));
  m.impl("_copy_from", TORCH_FN(copy_from));
  m.impl("_copy_from_and_resize", TORCH_FN(copy_from_and_resize));
  m.impl("_local_scalar_dense", TORCH_FN(value_of));
}

}  // namespace
