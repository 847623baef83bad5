// Attention inside windows on the CPU: softmax(scale q k^T + bias + mask) v and its gradients. A block of logits, some
// rows of queries by all keys, lives in the cache; the logits of a window never exist as a whole.
//
// Shapes: W windows, h heads, N queries, M keys, D width of queries and keys, E width of values, n masks of an image.
// T is the type in memory, A that of all arithmetic (float for half precision).
//
// One task owns whatever it writes: no result depends on the number of threads.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <tuple>
#include <vector>

#include "softmax.h"
#include "tiles.h"
#include "types.h"
#include "window.h"
#include "window_bf16.h"
#include "window_bf16_backward.h"
#include "window_rows.h"

namespace focalsr {
namespace {

template <class A>
Sizes sizes_of(const Tensor& q, const Tensor& k, const Tensor& v) {
  Sizes s{q.size(0), q.size(1), q.size(2), k.size(2), q.size(3), v.size(3), 0, 0, 0};
  constexpr int64_t kSize = sizeof(A);
  s.padded_keys = padded<A>(s.keys);
  // Rows that start 1024 bytes apart, or a multiple, compete for the same few places of the cache.
  s.step = s.padded_keys + (s.padded_keys * kSize % 512 == 0 ? 64 / kSize : 0);
  const int64_t fitting = kBlockBytes / (s.step * kSize);
  s.rows = std::min(std::max<int64_t>(fitting / 6 * 6, 6), (s.queries + 5) / 6 * 6);
  return s;
}

// Rows of logits [rows, step] of the queries from `first` on: scaled products, bias and mask; -inf after the last key.
template <class A>
void logits_of(
    const Additive<A>& additive, int64_t window, int64_t head, int64_t first, int64_t rows, const A* q, int64_t q_step,
    const A* k_columns, A* logits) {
  const Sizes& s = additive.s;
  if (s.keys == s.padded_keys && additive.unmasked(window)) {  // the bias as it is starts the sums
    const A* bias = additive.bias_row(head, first);
    return product(q, q_step, 1, k_columns, s.step, logits, s.step, rows, s.keys, s.width, bias, s.keys);
  }
  const auto end_rows_with = [&](A value) {
    for (int64_t r = 0; s.keys < s.padded_keys && r < rows; ++r)
      std::fill(logits + r * s.step + s.keys, logits + r * s.step + s.padded_keys, value);
  };
  bool add = false;
  for (int64_t r = 0; r < rows; ++r) add = additive.start(window, head, first + r, logits + r * s.step);
  if (add) end_rows_with(A(0));
  product(q, q_step, 1, k_columns, s.step, logits, s.step, rows, s.padded_keys, s.width, add ? logits : nullptr, s.step);
  end_rows_with(-std::numeric_limits<A>::infinity());
}

template <class A, class T>
void forward(
    const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& bias, const OptionalTensor& mask,
    double scale, const Tensor& out) {
  const Sizes s = sizes_of<A>(q, k, v);
  const Additive<A> additive(bias, mask, s, true);
  const View<T> from_q(q), from_k(k), from_v(v), to(out);
  const int64_t pieces = (s.queries + kRowsInTask - 1) / kRowsInTask;
  const int64_t q_step = padded<A>(s.width), v_step = padded<A>(s.value_width);
  at::parallel_for(0, s.windows * s.heads * pieces, 1, [&](int64_t begin, int64_t end) {
    const Buffer<A> columns(s.width * s.step), values(s.keys * v_step);
    const Buffer<A> queries(s.rows * q_step), logits(s.rows * s.step), results(s.rows * v_step), norms(s.rows);
    int64_t packed = -1;
    A key_length = 0;
    for (int64_t task = begin; task < end; ++task) {
      const int64_t window = task / (s.heads * pieces), head = task / pieces % s.heads, piece = task % pieces;
      if (task / pieces != packed) {
        packed = task / pieces;
        const T* keys = from_k.at(window, head, 0);
        pack_columns<A>(keys, from_k.token, from_k.channel, s.keys, s.width, columns.get(), s.step);
        key_length = longest_column(columns.get(), s.step, s.width, s.padded_keys);
        const T* all_values = from_v.at(window, head, 0);
        pack_rows<A>(all_values, from_v.token, from_v.channel, s.keys, s.value_width, values.get());
      }
      const int64_t last = std::min(s.queries, (piece + 1) * kRowsInTask);
      for (int64_t first = piece * kRowsInTask; first < last; first += s.rows) {
        const int64_t rows = std::min(s.rows, last - first);
        pack_rows<A>(from_q.at(window, head, first), from_q.token, from_q.channel, rows, s.width, queries.get());
        scale_rows<A>(queries.get(), rows * q_step, static_cast<A>(scale));
        logits_of(additive, window, head, first, rows, queries.get(), q_step, columns.get(), logits.get());
        const bool near = additive.near(window, head, key_length * longest(queries.get(), q_step, rows));
        for (int64_t r = 0; r < rows; ++r) norms[r] = exponentials_of(near, logits.get() + r * s.step, s.padded_keys);
        product(
            logits.get(), s.step, 1, values.get(), v_step, results.get(), v_step, rows, v_step, s.keys);
        for (int64_t r = 0; r < rows; ++r) {
          T* row = to.at(window, head, first + r);
          for (int64_t e = 0; e < s.value_width; ++e)
            row[e * to.channel] = static_cast<T>(results[r * v_step + e] * norms[r]);
        }
      }
    }
  });
}

// Operands of the backward pass, and where the gradients go.
template <class T>
struct Gradients {
  View<T> q, k, v, grad, to_q, to_k, to_v;
};

// The gradients of one window and head; what the bias gets, [N, M], is added to `d_bias` if there is one.
template <class A, class T>
class Backward {
 public:
  Backward(const Additive<A>& additive, A scale, const Gradients<T>& of)
      : additive_(additive), s_(additive.s), of_(of), scale_(scale), q_step_(padded<A>(s_.width)),
        v_step_(padded<A>(s_.value_width)), k_columns_(s_.width * s_.step),
        v_columns_(s_.value_width * s_.step), k_rows_(s_.keys * q_step_), d_k_(s_.keys * q_step_),
        d_v_(s_.keys * v_step_), q_(s_.rows * q_step_), grad_(s_.rows * v_step_), d_q_(s_.rows * q_step_),
        weights_(s_.rows * s_.step), d_logits_(s_.rows * s_.step) {}

  void run(int64_t window, int64_t head, A* d_bias) {
    const auto& [q, k, v, grad, to_q, to_k, to_v] = of_;
    pack_columns<A>(k.at(window, head, 0), k.token, k.channel, s_.keys, s_.width, k_columns_.get(), s_.step);
    pack_rows<A>(k.at(window, head, 0), k.token, k.channel, s_.keys, s_.width, k_rows_.get());
    pack_columns<A>(v.at(window, head, 0), v.token, v.channel, s_.keys, s_.value_width, v_columns_.get(), s_.step);
    key_length_ = longest(k_rows_.get(), q_step_, s_.keys);
    for (int64_t first = 0; first < s_.queries; first += s_.rows) {
      const int64_t rows = std::min(s_.rows, s_.queries - first);
      pack_rows<A>(q.at(window, head, first), q.token, q.channel, rows, s_.width, q_.get());
      scale_rows<A>(q_.get(), rows * q_step_, scale_);
      pack_rows<A>(grad.at(window, head, first), grad.token, grad.channel, rows, s_.value_width, grad_.get());
      block(window, head, first, rows);
      if (d_bias != nullptr) add_bias(first, rows, d_bias);
      scale_rows<A>(d_q_.get(), rows * q_step_, scale_);
      write(d_q_.get(), q_step_, rows, s_.width, to_q, window, head, first);
    }
    write(d_k_.get(), q_step_, s_.keys, s_.width, to_k, window, head, 0);
    write(d_v_.get(), v_step_, s_.keys, s_.value_width, to_v, window, head, 0);
  }

 private:
  // From the packed queries and gradients of some rows: d_q, and what they add to d_k and d_v.
  void block(int64_t window, int64_t head, int64_t first, int64_t rows) {
    const int64_t width = s_.padded_keys, step = s_.step;
    logits_of(additive_, window, head, first, rows, q_.get(), q_step_, k_columns_.get(), weights_.get());
    product(grad_.get(), v_step_, 1, v_columns_.get(), step, d_logits_.get(), step, rows, width, s_.value_width);
    const bool near = additive_.near(window, head, key_length_ * longest(q_.get(), q_step_, rows));
    for (int64_t r = 0; r < rows; ++r)
      softmax_gradient(near, weights_.get() + r * step, d_logits_.get() + r * step, width);
    A* d_k = d_k_.get();
    A* d_v = d_v_.get();
    const bool add = first > 0;  // what earlier rows added counts; uninitialised memory does not
    product(
        weights_.get(), 1, step, grad_.get(), v_step_, d_v, v_step_, s_.keys, v_step_, rows, add ? d_v : nullptr,
        v_step_);
    product(
        d_logits_.get(), 1, step, q_.get(), q_step_, d_k, q_step_, s_.keys, q_step_, rows, add ? d_k : nullptr, q_step_);
    product(d_logits_.get(), step, 1, k_rows_.get(), q_step_, d_q_.get(), q_step_, rows, q_step_, s_.keys);
  }

  void add_bias(int64_t first, int64_t rows, A* d_bias) const {
    for (int64_t r = 0; r < rows; ++r) {
      A* to = d_bias + (first + r) * s_.keys;
      const A* from = d_logits_.get() + r * s_.step;
      for (int64_t m = 0; m < s_.keys; ++m) to[m] += from[m];
    }
  }

  static void write(
      const A* from, int64_t step, int64_t tokens, int64_t width, const View<T>& to, int64_t window, int64_t head,
      int64_t first) {
    for (int64_t t = 0; t < tokens; ++t) {
      T* row = to.at(window, head, first + t);
      for (int64_t c = 0; c < width; ++c) row[c * to.channel] = static_cast<T>(from[t * step + c]);
    }
  }

  const Additive<A>& additive_;
  const Sizes& s_;
  const Gradients<T>& of_;
  const A scale_;
  A key_length_ = 0;
  const int64_t q_step_, v_step_;
  const Buffer<A> k_columns_, v_columns_, k_rows_, d_k_, d_v_, q_, grad_, d_q_, weights_, d_logits_;
};

template <class A, class T>
void backward(
    const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& bias,
    const OptionalTensor& mask, double scale, const Tensor& d_q, const Tensor& d_k, const Tensor& d_v, A* d_bias) {
  const Sizes s = sizes_of<A>(q, k, v);
  const Additive<A> additive(bias, mask, s, true);
  const Gradients<T> of{View<T>(q),   View<T>(k),   View<T>(v),  View<T>(grad),
                        View<T>(d_q), View<T>(d_k), View<T>(d_v)};
  in_slices(s, d_bias, [&] { return Backward<A, T>(additive, static_cast<A>(scale), of); });
}

at::ScalarType arithmetic(at::ScalarType type) { return type == at::kDouble ? at::kDouble : at::kFloat; }

OptionalTensor dense(const OptionalTensor& x) { return x ? OptionalTensor(x->contiguous()) : x; }

// The bias may be half precision as the queries are.
OptionalTensor bias_as(at::ScalarType type, const OptionalTensor& bias) {
  return bias ? OptionalTensor(bias->to(type).contiguous()) : bias;
}

// Heads of a token side by side, so that joining them is free.
Tensor like(const Tensor& q, int64_t tokens, int64_t width) {
  return at::empty({q.size(0), tokens, q.size(1), width}, q.options()).transpose(1, 2);
}

// The form for bfloat16 with products of pairs, which window_attention takes where the processor has such products.
Tensor window_attention_bf16(
    const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& bias, const OptionalTensor& mask,
    double scale) {
  TORCH_CHECK(q.scalar_type() == at::kBFloat16, "window_attention_bf16: ", q.scalar_type(), " is not supported");
  const Tensor out = like(q, q.size(2), v.size(3));
  if (out.numel() > 0) bf16::forward(q, k, v, dense(bias), dense(mask), scale, out);
  return out;
}

Tensor window_attention(
    const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& bias, const OptionalTensor& mask,
    double scale) {
  if (bf16::kNative && q.scalar_type() == at::kBFloat16) return window_attention_bf16(q, k, v, bias, mask, scale);
  const Tensor out = like(q, q.size(2), v.size(3));
  if (out.numel() == 0) return out;
  by_type("window_attention", q.scalar_type(), [&](auto a, auto t) {
    const OptionalTensor wide = bias_as(arithmetic(q.scalar_type()), bias);
    forward<decltype(a), decltype(t)>(q, k, v, wide, dense(mask), scale, out);
  });
  return out;
}

using FourTensors = std::tuple<Tensor, Tensor, Tensor, Tensor>;

// Empty gradients of q, k, v, and zeros for the bias.
FourTensors gradients(const Tensor& q, const Tensor& k, const Tensor& v, bool bias_gradient) {
  const auto options = q.options().dtype(arithmetic(q.scalar_type()));
  return {
      like(q, q.size(2), q.size(3)), like(q, k.size(2), k.size(3)), like(q, v.size(2), v.size(3)),
      bias_gradient ? at::zeros({q.size(1), q.size(2), k.size(2)}, options) : at::empty({0}, options)};
}

FourTensors window_attention_bf16_backward(
    const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& bias,
    const OptionalTensor& mask, double scale, bool bias_gradient) {
  TORCH_CHECK(q.scalar_type() == at::kBFloat16, "window_attention_bf16_backward: ", q.scalar_type(), " is not supported");
  const FourTensors all = gradients(q, k, v, bias_gradient);
  const auto& [d_q, d_k, d_v, d_bias] = all;
  float* to = bias_gradient ? d_bias.mutable_data_ptr<float>() : nullptr;
  if (q.size(0) > 0 && q.size(1) > 0)
    bf16::backward(grad, q, k, v, bias_as(at::kFloat, bias), dense(mask), scale, d_q, d_k, d_v, to);
  return all;
}

FourTensors window_attention_backward(
    const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& bias,
    const OptionalTensor& mask, double scale, bool bias_gradient) {
  if (bf16::kNative && q.scalar_type() == at::kBFloat16)
    return window_attention_bf16_backward(grad, q, k, v, bias, mask, scale, bias_gradient);
  const FourTensors all = gradients(q, k, v, bias_gradient);
  const auto& [d_q, d_k, d_v, d_bias] = all;
  if (q.size(0) > 0 && q.size(1) > 0)
    by_type("window_attention", q.scalar_type(), [&, &d_q = d_q, &d_k = d_k, &d_v = d_v, &d_bias = d_bias](auto a, auto t) {
      using A = decltype(a);
      A* to = bias_gradient ? d_bias.template mutable_data_ptr<A>() : nullptr;
      const OptionalTensor wide = bias_as(arithmetic(q.scalar_type()), bias);
      backward<A, decltype(t)>(grad, q, k, v, wide, dense(mask), scale, d_q, d_k, d_v, to);
    });
  return all;
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CPU, m) {
  m.impl("window_attention", window_attention);
  m.impl("window_attention_bf16", window_attention_bf16);
  m.impl("window_attention_backward", window_attention_backward);
  m.impl("window_attention_bf16_backward", window_attention_bf16_backward);
}

}  // namespace focalsr
