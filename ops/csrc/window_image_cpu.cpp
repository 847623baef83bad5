// Self-attention inside windows of an image on the CPU, from its pixels to its pixels: windows that are shifted around the
// border, or stick out of the image, are lists of pixels, and nothing is copied into windows.
//
// What is not needed is not computed. Results of tokens outside of the image do not exist; as keys they are zeros, whose
// logits are the bias alone. Tokens of one region (the pieces of a shifted window) see each other: where logits are so
// small that those of other regions, lowered by 100, would vanish in the sums by far, each region is a window of its own.
//
// Keys may be other pixels than queries: those of larger windows around them, which overlap. What their keys and values
// get is then summed window by window, in one task for an image and head.
//
// Shapes: as in window_image.h.
//
// One task owns whatever it writes: no result depends on the number of threads.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <limits>
#include <vector>

#include "softmax.h"
#include "window_image.h"
#include "window_rows.h"

namespace focalsr {
namespace {

// Regions are windows of their own where no logit exceeds this: exp(2 * 25 - 100) is far below any rounding error.
constexpr double kApartLimit = 25;

// One window and head of an image.
template <class A>
class Task {
 public:
  explicit Task(const Image<A>& image)
      : image_(image), step_(image.step()), row_(image.row_step()), q_(image.queries * row_), k_(image.keys * row_),
        v_(image.keys * row_), k_columns_(image.width * step_), weights_(image.block() * step_) {}

  // Packs the operands, and decides whether regions are windows of their own.
  void take(int64_t number, int64_t head) {
    const int64_t n = image_.windows.size(), first = number / n * image_.pixels, offset = head * image_.width;
    window_ = &image_.windows[number % n];
    head_ = head;
    first_ = first;
    const std::vector<int32_t>&queries = window_->queries.pixels, &keys = window_->keys.pixels;
    const int64_t rows = queries.size(), columns = keys.size();
    pack_pixels(image_.q + first * image_.q_pixel + offset, image_.q_pixel, queries, image_.width, q_.get());
    pack_pixels(image_.k + first * image_.k_pixel + offset, image_.k_pixel, keys, image_.width, k_.get());
    pack_pixels(image_.v + first * image_.v_pixel + offset, image_.v_pixel, keys, image_.width, v_.get());
    scale_rows<A>(q_.get(), rows * row_, image_.scale);
    transpose_rows(k_.get(), columns, image_.width, k_columns_.get(), step_);
    const A bound = longest(q_.get(), row_, rows) * longest(k_.get(), row_, columns) + image_.largest[head];
    near_ = bound <= A(kNearLimit);  // false if not a number
    apart_ = window_->parts.size() > 1 && bound <= A(kApartLimit);
  }

  // Calls f(part, whether logits between its regions are lowered, first row, rows) for blocks of all queries.
  template <class F>
  void for_blocks(F&& f) {
    const auto blocks = [&](const Part& part, bool lowered) {
      for (int64_t first = 0; first < part.queries(); first += image_.block())
        f(part, lowered, first, std::min(image_.block(), part.queries() - first));
    };
    if (!apart_) return blocks(window_->whole, window_->parts.size() > 1);
    for (const Part& part : window_->parts) blocks(part, false);
  }

  // Logits of rows [first, first + count) of a part, -inf after the last key; whether all are small.
  bool logits_of(const Part& part, bool lowered, int64_t first, int64_t count) {
    const int64_t keys = part.keys(), width = padded<A>(keys), pixels = part.pixels(), fitting = padded<A>(pixels);
    const A* q = q_.get() + (part.first + first) * row_;
    const A* columns = k_columns_.get() + part.first_key;
    A* const logits = weights_.get();
    if (window_->plain && image_.bias != nullptr) {
      const A* bias = image_.bias_row(head_, first);
      product(q, row_, 1, columns, step_, logits, step_, count, width, image_.width, bias, image_.keys);
    } else {
      for (int64_t r = 0; r < count; ++r) start(part, lowered, part.first + first + r, logits + r * step_);
      for (int64_t r = 0; r < count; ++r) std::copy_n(logits + r * step_ + pixels, keys - pixels, rest_row(r));
      product(q, row_, 1, columns, step_, logits, step_, count, fitting, image_.width, logits, step_);
      for (int64_t r = 0; r < count; ++r) {
        std::copy_n(rest_row(r), keys - pixels, logits + r * step_ + pixels);
        std::fill(logits + r * step_ + keys, logits + r * step_ + width, -std::numeric_limits<A>::infinity());
      }
    }
    return near_ && keys == width && !lowered;
  }

 protected:
  // The bias of a row, and -100 where a key is of another region.
  void start(const Part& part, bool lowered, int64_t row, A* logits) const {
    if (image_.bias == nullptr) {
      std::fill_n(logits, part.keys(), A(0));
    } else {
      const A* bias = image_.bias_row(head_, window_->queries.tokens[row]);
      for (const Run& run : part.runs) std::copy_n(bias + run.token, run.count, logits + run.column);
    }
    if (!lowered) return;
    for (const Part& other : window_->parts) {
      if (row >= other.first && row < other.last) continue;
      for (int64_t m = other.first_key; m < other.last_key; ++m) logits[m] += A(kHidden);
      for (int64_t m = other.first_zero; m < other.last_zero; ++m) logits[part.pixels() + m] += A(kHidden);
    }
  }

  // Where the logits of keys of zeros wait while those of pixels, in whole vectors, are computed over them.
  A* rest_row(int64_t r) {
    if (rest_.empty()) rest_.resize(image_.block() * image_.keys);
    return rest_.data() + r * image_.keys;
  }

  const Image<A>& image_;
  const int64_t step_, row_;
  const Window* window_ = nullptr;
  int64_t head_ = 0, first_ = 0;
  bool near_ = false, apart_ = false;
  const Buffer<A> q_, k_, v_, k_columns_, weights_;
  std::vector<A> rest_;
};

template <class A>
class Forward : Task<A> {
 public:
  explicit Forward(const Image<A>& image)
      : Task<A>(image), results_(image.block() * image.row_step()), norms_(image.block()) {}

  void run(int64_t number, int64_t head, A* out, int64_t pixel) {
    const int64_t row = this->row_, step = this->step_;
    this->take(number, head);
    A* const to = out + this->first_ * pixel + head * this->image_.width;
    this->for_blocks([&](const Part& part, bool lowered, int64_t first, int64_t count) {
      const bool near = this->logits_of(part, lowered, first, count);
      A* const weights = this->weights_.get();
      for (int64_t r = 0; r < count; ++r) norms_[r] = exponentials_of(near, weights + r * step, padded<A>(part.keys()));
      product(weights, step, 1, this->v_.get() + part.first_key * row, row, results_.get(), row, count, row, part.pixels());
      for (int64_t r = 0; r < count; ++r)
        write_row(results_.get() + r * row, this->image_.width, norms_[r],
                  to + this->window_->queries.pixels[part.first + first + r] * pixel);
    });
  }

 private:
  const Buffer<A> results_, norms_;
};

// Pixels of gradients: of the result, and where those of q, k, v go.
template <class A>
struct ImageGradients {
  const A* grad;
  A *q, *k, *v;
  int64_t pixel, q_pixel, k_pixel, v_pixel;
};

template <class A>
class Backward : Task<A> {
 public:
  Backward(const Image<A>& image, const ImageGradients<A>& of)
      : Task<A>(image), of_(of), grad_(image.queries * this->row_), d_k_(image.keys * this->row_),
        d_v_(image.keys * this->row_), d_q_(image.block() * this->row_), v_columns_(image.width * this->step_),
        d_logits_(image.block() * this->step_) {}

  // d_bias [N, M]: what the bias of the head gets is added to it; or null. kAdd: so are the gradients of keys and values.
  template <bool kAdd>
  void run(int64_t number, int64_t head, A* d_bias) {
    this->take(number, head);
    const auto& image = this->image_;
    const std::vector<int32_t>&pixels = this->window_->queries.pixels, &keys = this->window_->keys.pixels;
    const int64_t offset = head * image.width, columns = keys.size();
    pack_pixels(of_.grad + this->first_ * of_.pixel + offset, of_.pixel, pixels, image.width, grad_.get());
    transpose_rows(this->v_.get(), columns, image.width, v_columns_.get(), this->step_);
    this->for_blocks([&](const Part& part, bool lowered, int64_t first, int64_t count) {
      differentiate(part, lowered, first, count);
      if (d_bias != nullptr) add_bias(part, first, count, d_bias);
      products(part, first, count);
      A* to = of_.q + this->first_ * of_.q_pixel + offset;
      for (int64_t r = 0; r < count; ++r)
        write_row(d_q_.get() + r * this->row_, image.width, image.scale, to + pixels[part.first + first + r] * of_.q_pixel);
    });
    if (pixels.empty()) return;
    A* const to_k = of_.k + this->first_ * of_.k_pixel + offset;
    A* const to_v = of_.v + this->first_ * of_.v_pixel + offset;
    for (int64_t i = 0; i < columns; ++i) {
      write_row<A, kAdd>(d_k_.get() + i * this->row_, image.width, A(1), to_k + keys[i] * of_.k_pixel);
      write_row<A, kAdd>(d_v_.get() + i * this->row_, image.width, A(1), to_v + keys[i] * of_.v_pixel);
    }
  }

  // All windows of an image in their order, whose keys overlap.
  void run_image(int64_t number, int64_t head, A* d_bias) {
    const int64_t width = this->image_.width, n = this->image_.windows.size();
    for (int64_t p = number * this->image_.pixels; p < (number + 1) * this->image_.pixels; ++p) {
      std::fill_n(of_.k + p * of_.k_pixel + head * width, width, A(0));
      std::fill_n(of_.v + p * of_.v_pixel + head * width, width, A(0));
    }
    for (int64_t w = number * n; w < (number + 1) * n; ++w) run<true>(w, head, d_bias);
  }

 private:
  // Weights of a block and the gradients of its logits.
  void differentiate(const Part& part, bool lowered, int64_t first, int64_t count) {
    const int64_t step = this->step_, width = padded<A>(part.keys());
    const A* grad = grad_.get() + (part.first + first) * this->row_;
    const bool near = this->logits_of(part, lowered, first, count);
    product(grad, this->row_, 1, v_columns_.get() + part.first_key, step, d_logits_.get(), step, count,
            padded<A>(part.pixels()), this->image_.width);
    for (int64_t r = 0; r < count; ++r) {
      A* d_logits = d_logits_.get() + r * step;
      std::fill(d_logits + part.pixels(), d_logits + width, A(0));  // values of zero
      softmax_gradient(near, this->weights_.get() + r * step, d_logits, width);
    }
  }

  void add_bias(const Part& part, int64_t first, int64_t count, A* d_bias) const {
    for (int64_t r = 0; r < count; ++r) {
      A* to = d_bias + this->window_->queries.tokens[part.first + first + r] * this->image_.keys;
      const A* from = d_logits_.get() + r * this->step_;
      for (const Run& run : part.runs)
        for (int64_t i = 0; i < run.count; ++i) to[run.token + i] += from[run.column + i];
    }
  }

  // From the gradients of a block of logits: d_q, and what they add to d_k and d_v.
  void products(const Part& part, int64_t first, int64_t count) {
    const int64_t row = this->row_, step = this->step_, pixels = part.pixels(), at = (part.first + first) * row;
    A* d_k = d_k_.get() + part.first_key * row;
    A* d_v = d_v_.get() + part.first_key * row;
    const bool add = first > 0;  // what earlier rows added counts; uninitialised memory does not
    product(this->weights_.get(), 1, step, grad_.get() + at, row, d_v, row, pixels, row, count, add ? d_v : nullptr, row);
    product(d_logits_.get(), 1, step, this->q_.get() + at, row, d_k, row, pixels, row, count, add ? d_k : nullptr, row);
    product(d_logits_.get(), step, 1, this->k_.get() + part.first_key * row, row, d_q_.get(), row, count, row, pixels);
  }

  const ImageGradients<A> of_;
  const Buffer<A> grad_, d_k_, d_v_, d_q_, v_columns_, d_logits_;
};

void check_places(const Tensor& places, int64_t pixels) {
  TORCH_CHECK_VALUE(places.dim() == 2 && places.scalar_type() == at::kInt && places.is_contiguous(),
                    "image_attention: expected places [windows, tokens] of int32");
  if (places.numel() == 0) return;
  const int32_t* const data = places.const_data_ptr<int32_t>();
  const auto [least, most] = std::minmax_element(data, data + places.numel());
  TORCH_CHECK_INDEX(*least >= -1 && *most < pixels, "image_attention: a place is no pixel");
}

void check(const Tensor& q, const Layout& of) {
  TORCH_CHECK_VALUE(of.pixels > 0 && of.heads > 0, "image_attention: shapes differ");
  check_places(of.places, of.pixels);
  if (of.key_places) check_places(*of.key_places, of.pixels);
  TORCH_CHECK_VALUE(q.dim() == 2 && q.size(0) % of.pixels == 0 && q.size(1) % of.heads == 0 &&
                        (!of.bias || of.bias->sizes() == at::IntArrayRef({of.heads, of.queries(), of.keys()})) &&
                        (!of.key_places || of.key_places->size(0) == of.places.size(0)) &&
                        (!of.regions || (of.regions->sizes() == of.places.sizes() && of.regions->is_contiguous() &&
                                         of.regions->scalar_type() == at::kByte)),
                    "image_attention: shapes differ");
  TORCH_CHECK_VALUE(!of.key_places || !of.regions, "image_attention: regions are of tokens that are queries and keys");
}

void check_rows(const Tensor& q, std::initializer_list<Tensor> others) {
  for (const Tensor& x : others)
    TORCH_CHECK_VALUE(x.sizes() == q.sizes() && x.scalar_type() == q.scalar_type() && x.stride(1) == 1,
                      "image_attention: expected rows of pixels of one type, channels side by side");
}

template <class F>
void by_width(const Tensor& q, F&& f) {
  if (q.scalar_type() == at::kDouble) return f(double{});
  TORCH_CHECK(q.scalar_type() == at::kFloat, "image_attention: ", q.scalar_type(), " is not supported");
  f(float{});
}

OptionalTensor dense(const OptionalTensor& bias, const Tensor& q) {
  return bias ? OptionalTensor(bias->to(q.scalar_type()).contiguous()) : bias;
}

// q, k, v [P, h * D] -> out, rows that the places name.
void image_attention_out(
    const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& bias, const Tensor& places,
    const OptionalTensor& key_places, const OptionalTensor& regions, int64_t pixels, int64_t heads, double scale,
    const Tensor& out) {
  const OptionalTensor added = dense(bias, q);
  const Layout of{added, places, key_places, regions, pixels, heads};
  check(q, of);
  check_rows(q, {q, k, v, out});
  by_width(q, [&](auto a) {
    using A = decltype(a);
    const Image<A> image(q, k, v, of, scale);
    const int64_t windows = image.images * static_cast<int64_t>(image.windows.size());
    at::parallel_for(0, windows * heads, 1, [&](int64_t begin, int64_t end) {
      Forward<A> work(image);
      for (int64_t task = begin; task < end; ++task)
        work.run(task / heads, task % heads, out.mutable_data_ptr<A>(), out.stride(0));
    });
  });
}

// The gradients of one kind of work: a window and head, or, where keys overlap, an image and head.
template <class A>
struct Gradient {
  Backward<A> work;
  bool overlap;

  void run(int64_t number, int64_t head, A* d_bias) {
    overlap ? work.run_image(number, head, d_bias) : work.template run<false>(number, head, d_bias);
  }
};

// The gradients of q, k, v, [P, h * D] each, and of the bias if it wants one.
Tensor image_attention_backward_out(
    const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& bias,
    const Tensor& places, const OptionalTensor& key_places, const OptionalTensor& regions, int64_t pixels, int64_t heads,
    double scale, bool bias_gradient, const Tensor& d_q, const Tensor& d_k, const Tensor& d_v) {
  const OptionalTensor added = dense(bias, q);
  const Layout of{added, places, key_places, regions, pixels, heads};
  check(q, of);
  check_rows(q, {grad, q, k, v, d_q, d_k, d_v});
  const Tensor d_bias =
      bias_gradient ? at::zeros({heads, of.queries(), of.keys()}, q.options()) : at::empty({0}, q.options());
  by_width(q, [&](auto a) {
    using A = decltype(a);
    const Image<A> image(q, k, v, of, scale);
    const ImageGradients<A> to{grad.const_data_ptr<A>(), d_q.mutable_data_ptr<A>(), d_k.mutable_data_ptr<A>(),
                               d_v.mutable_data_ptr<A>(), grad.stride(0), d_q.stride(0), d_k.stride(0), d_v.stride(0)};
    const bool overlap = key_places.has_value();
    Sizes s{};
    s.windows = image.images * (overlap ? 1 : static_cast<int64_t>(image.windows.size()));  // else images
    s.heads = heads;
    s.queries = of.queries();
    s.keys = of.keys();
    if (s.windows > 0)
      in_slices(s, bias_gradient ? d_bias.mutable_data_ptr<A>() : nullptr,
                [&] { return Gradient<A>{Backward<A>(image, to), overlap}; }, overlap ? 1 : kWindowsInSlice);
  });
  return d_bias;
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CPU, m) {
  m.impl("image_attention_out", image_attention_out);
  m.impl("image_attention_backward_out", image_attention_backward_out);
}

}  // namespace focalsr
