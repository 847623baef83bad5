// Self-attention inside windows of an image on the CPU, from its pixels to its pixels: windows that are shifted around the
// border, or stick out of the image, are lists of pixels, and nothing is copied into windows.
//
// What is not needed is not computed. Results of tokens outside of the image do not exist; as keys they are zeros, whose
// logits are the bias alone. Tokens of one region (the pieces of a shifted window) see each other: where logits are so
// small that those of other regions, lowered by 100, would vanish in the sums by far, each region is a window of its own.
//
// Shapes: P pixels of all images, B images of n windows each, N tokens of a window, h heads of width D. Tables [n, N]:
// the pixel of an image that a token is, or -1 outside of it; the region of a token.
//
// One task owns whatever it writes: no result depends on the number of threads.
#include <ATen/Parallel.h>
#include <ATen/core/Tensor.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <torch/library.h>

#include <limits>
#include <numeric>
#include <vector>

#include "softmax.h"
#include "window.h"
#include "window_rows.h"

namespace focalsr {
namespace {

// Regions are windows of their own where no logit exceeds this: exp(2 * 25 - 100) is far below any rounding error.
constexpr double kApartLimit = 25;

// Columns of logits whose tokens follow each other in the window.
struct Run {
  int64_t column, token, count;
};

// Tokens that see each other: rows of the image [first, last) in the order of a window, then keys of zeros.
struct Part {
  int64_t first, last, first_zero, last_zero;
  std::vector<Run> runs;  // of all of its keys

  int64_t pixels() const { return last - first; }
  int64_t keys() const { return pixels() + last_zero - first_zero; }
};

// One of the n windows of an image: tokens in it by region, those in the image first.
struct Window {
  std::vector<int32_t> tokens, pixels, zeros;  // pixels[i] is the pixel of tokens[i]; zeros: tokens outside of the image
  std::vector<Part> parts;                     // by region
  Part whole;
  bool plain;  // whole, and its keys in their order

  Window(const int32_t* places, const uint8_t* regions, int64_t count) {
    std::vector<int32_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    const auto region = [&](int32_t t) { return regions == nullptr ? 0 : static_cast<int>(regions[t]); };
    std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return region(a) < region(b); });
    for (const int32_t t : order) {
      if (parts.empty() || region(t) != last_region_) {
        const int64_t row = tokens.size(), zero = zeros.size();
        parts.push_back({row, row, zero, zero, {}});
        last_region_ = region(t);
      }
      if (places[t] < 0) {
        zeros.push_back(t);
        ++parts.back().last_zero;
      } else {
        tokens.push_back(t);
        pixels.push_back(places[t]);
        ++parts.back().last;
      }
    }
    whole = {0, static_cast<int64_t>(tokens.size()), 0, static_cast<int64_t>(zeros.size()), {}};
    for (Part& part : parts) find_runs(part);
    find_runs(whole);
    plain = parts.size() == 1 && zeros.empty() && whole.runs.size() == 1 && count % 8 == 0;
  }

 private:
  void find_runs(Part& part) const {
    const auto add = [&](int64_t column, int64_t token) {
      if (!part.runs.empty()) {
        Run& run = part.runs.back();
        if (run.token + run.count == token && run.column + run.count == column) return void(++run.count);
      }
      part.runs.push_back({column, token, 1});
    };
    for (int64_t i = part.first; i < part.last; ++i) add(i - part.first, tokens[i]);
    for (int64_t i = part.first_zero; i < part.last_zero; ++i) add(part.pixels() + i - part.first_zero, zeros[i]);
  }

  int last_region_ = -1;
};

// What both directions are given. Rows of q, k, v are pixels, `steps` numbers apart, with heads side by side.
template <class A>
struct Image {
  const A *q, *k, *v, *bias;  // bias [h, N, N] or null
  int64_t q_pixel, k_pixel, v_pixel;
  int64_t images, pixels, heads, width, tokens;
  A scale;
  std::vector<Window> windows;
  std::vector<A> largest;  // magnitude of the bias, by head

  Image(const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& bias, const Tensor& places,
        const OptionalTensor& regions, int64_t pixels, int64_t heads, double scale)
      : q(q.const_data_ptr<A>()), k(k.const_data_ptr<A>()), v(v.const_data_ptr<A>()),
        bias(bias ? bias->const_data_ptr<A>() : nullptr), q_pixel(q.stride(0)), k_pixel(k.stride(0)),
        v_pixel(v.stride(0)), images(q.size(0) / pixels), pixels(pixels), heads(heads), width(q.size(1) / heads),
        tokens(places.size(1)), scale(static_cast<A>(scale)), largest(heads, A(0)) {
    for (int64_t w = 0; w < places.size(0); ++w)
      windows.emplace_back(
          places.const_data_ptr<int32_t>() + w * tokens,
          regions ? regions->const_data_ptr<uint8_t>() + w * tokens : nullptr, tokens);
    for (int64_t head = 0; bias && head < heads; ++head)
      largest[head] = largest_magnitude(this->bias + head * tokens * tokens, tokens * tokens);
  }

  int64_t row_step() const { return padded<A>(width); }
  // From one row of logits, or channel of transposed keys, to the next; never a multiple of 512 bytes, and with room for
  // a vector more.
  int64_t step() const {
    const int64_t room = padded<A>(tokens) + 64 / sizeof(A);
    return room * sizeof(A) % 512 == 0 ? room + 64 / sizeof(A) : room;
  }
  // Rows of a block of logits.
  int64_t block() const {
    const int64_t fitting = kBlockBytes / (step() * static_cast<int64_t>(sizeof(A)));
    return std::min(std::max<int64_t>(fitting / 6 * 6, 6), (tokens + 5) / 6 * 6);
  }
};

// Listed pixels of a head -> padded rows.
template <class A>
void pack_pixels(const A* from, int64_t pixel, const std::vector<int32_t>& pixels, int64_t width, A* to) {
  const int64_t step = padded<A>(width);
  for (const int32_t p : pixels) {
    const A* row = from + p * pixel;
    int64_t c = 0;
    for (; c + kLanes<A> <= width; c += kLanes<A>) store(to + c, load(row + c));
    for (; c < step; ++c) to[c] = c < width ? row[c] : A(0);
    to += step;
  }
}

// Padded rows -> [width, step], zeros after the last row.
template <class A>
void transpose_rows(const A* rows, int64_t count, int64_t width, A* to, int64_t step) {
  pack_columns<A>(rows, padded<A>(width), 1, count, width, to, step);
  for (int64_t c = 0; c < width; ++c) std::fill(to + c * step + count, to + (c + 1) * step, A(0));
}

// One window and head of an image.
template <class A>
class Task {
 public:
  explicit Task(const Image<A>& image)
      : image_(image), step_(image.step()), row_(image.row_step()), q_(image.tokens * row_), k_(image.tokens * row_),
        v_(image.tokens * row_), k_columns_(image.width * step_), weights_(image.block() * step_),
        norms_(image.block()) {}

  // Packs the operands, and decides whether regions are windows of their own.
  void take(int64_t number, int64_t head) {
    const int64_t n = image_.windows.size(), first = number / n * image_.pixels, offset = head * image_.width;
    window_ = &image_.windows[number % n];
    head_ = head;
    first_ = first;
    const int64_t rows = window_->tokens.size();
    pack_pixels(image_.q + first * image_.q_pixel + offset, image_.q_pixel, window_->pixels, image_.width, q_.get());
    pack_pixels(image_.k + first * image_.k_pixel + offset, image_.k_pixel, window_->pixels, image_.width, k_.get());
    pack_pixels(image_.v + first * image_.v_pixel + offset, image_.v_pixel, window_->pixels, image_.width, v_.get());
    scale_rows<A>(q_.get(), rows * row_, image_.scale);
    transpose_rows(k_.get(), rows, image_.width, k_columns_.get(), step_);
    const A bound = longest(q_.get(), row_, rows) * longest(k_.get(), row_, rows) + image_.largest[head];
    near_ = bound <= A(kNearLimit);  // false if not a number
    apart_ = window_->parts.size() > 1 && bound <= A(kApartLimit);
  }

  // Calls f(part, whether logits between its regions are lowered) for all that has pixels.
  template <class F>
  void for_parts(F&& f) {
    if (!apart_) return window_->tokens.empty() ? void() : f(window_->whole, window_->parts.size() > 1);
    for (const Part& part : window_->parts)
      if (part.pixels() > 0) f(part, false);
  }

  // Rows [first, first + count) of a part -> exponentials of their logits, and one over the sums of those.
  void weigh(const Part& part, bool lowered, int64_t first, int64_t count) {
    const int64_t keys = part.keys(), width = padded<A>(keys), pixels = part.pixels(), fitting = padded<A>(pixels);
    const A* q = q_.get() + (part.first + first) * row_;
    const A* columns = k_columns_.get() + part.first;
    A* const logits = weights_.get();
    if (window_->plain && image_.bias != nullptr) {
      const A* bias = image_.bias + (head_ * image_.tokens + window_->tokens[first]) * image_.tokens;
      product(q, row_, 1, columns, step_, logits, step_, count, width, image_.width, bias, image_.tokens);
    } else {
      for (int64_t r = 0; r < count; ++r) start(part, lowered, part.first + first + r, logits + r * step_);
      for (int64_t r = 0; r < count; ++r) std::copy_n(logits + r * step_ + pixels, keys - pixels, rest_row(r));
      product(q, row_, 1, columns, step_, logits, step_, count, fitting, image_.width, logits, step_);
      for (int64_t r = 0; r < count; ++r) {
        std::copy_n(rest_row(r), keys - pixels, logits + r * step_ + pixels);
        std::fill(logits + r * step_ + keys, logits + r * step_ + width, -std::numeric_limits<A>::infinity());
      }
    }
    const bool near = near_ && keys == width && !lowered;
    for (int64_t r = 0; r < count; ++r) norms_[r] = exponentials_of(near, logits + r * step_, width);
  }

 protected:
  // The bias of a row, and -100 where a key is of another region.
  void start(const Part& part, bool lowered, int64_t row, A* logits) const {
    if (image_.bias == nullptr) {
      std::fill_n(logits, part.keys(), A(0));
    } else {
      const A* bias = image_.bias + (head_ * image_.tokens + window_->tokens[row]) * image_.tokens;
      for (const Run& run : part.runs) std::copy_n(bias + run.token, run.count, logits + run.column);
    }
    if (!lowered) return;
    for (const Part& other : window_->parts) {
      if (row >= other.first && row < other.last) continue;
      for (int64_t m = other.first; m < other.last; ++m) logits[m] += A(kHidden);
      for (int64_t m = other.first_zero; m < other.last_zero; ++m) logits[part.pixels() + m] += A(kHidden);
    }
  }

  // Where the logits of keys of zeros wait while those of pixels, in whole vectors, are computed over them.
  A* rest_row(int64_t r) {
    if (rest_.empty()) rest_.resize(image_.block() * image_.tokens);
    return rest_.data() + r * image_.tokens;
  }

  const Image<A>& image_;
  const int64_t step_, row_;
  const Window* window_ = nullptr;
  int64_t head_ = 0, first_ = 0;
  bool near_ = false, apart_ = false;
  const Buffer<A> q_, k_, v_, k_columns_, weights_, norms_;
  std::vector<A> rest_;
};

// Padded rows -> listed pixels of a head, times a factor.
template <class A>
void write_row(const A* from, int64_t width, A factor, A* to) {
  int64_t c = 0;
  for (; c + kLanes<A> <= width; c += kLanes<A>) store(to + c, load(from + c) * factor);
  for (; c < width; ++c) to[c] = from[c] * factor;
}

template <class A>
class Forward : Task<A> {
 public:
  explicit Forward(const Image<A>& image) : Task<A>(image), results_(image.block() * image.row_step()) {}

  void run(int64_t number, int64_t head, A* out, int64_t pixel) {
    const int64_t row = this->row_, step = this->step_;
    this->take(number, head);
    A* const to = out + this->first_ * pixel + head * this->image_.width;
    this->for_parts([&](const Part& part, bool lowered) {
      for (int64_t first = 0; first < part.pixels(); first += this->image_.block()) {
        const int64_t count = std::min(this->image_.block(), part.pixels() - first);
        this->weigh(part, lowered, first, count);
        product(this->weights_.get(), step, 1, this->v_.get() + part.first * row, row, results_.get(), row, count, row,
                part.pixels());
        for (int64_t r = 0; r < count; ++r)
          write_row(results_.get() + r * row, this->image_.width, this->norms_[r],
                    to + this->window_->pixels[part.first + first + r] * pixel);
      }
    });
  }

 private:
  const Buffer<A> results_;
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
      : Task<A>(image), of_(of), grad_(image.tokens * this->row_), d_k_(image.tokens * this->row_),
        d_v_(image.tokens * this->row_), d_q_(image.block() * this->row_), v_columns_(image.width * this->step_),
        d_logits_(image.block() * this->step_) {}

  // d_bias [N, N]: what the bias of the head gets is added to it; or null.
  void run(int64_t number, int64_t head, A* d_bias) {
    this->take(number, head);
    const auto& image = this->image_;
    const std::vector<int32_t>& pixels = this->window_->pixels;
    const int64_t offset = head * image.width, rows = pixels.size();
    pack_pixels(of_.grad + this->first_ * of_.pixel + offset, of_.pixel, pixels, image.width, grad_.get());
    transpose_rows(this->v_.get(), rows, image.width, v_columns_.get(), this->step_);
    this->for_parts([&](const Part& part, bool lowered) {
      for (int64_t first = 0; first < part.pixels(); first += image.block()) {
        const int64_t count = std::min(image.block(), part.pixels() - first);
        this->weigh(part, lowered, first, count);
        differentiate(part, first, count);
        if (d_bias != nullptr) add_bias(part, first, count, d_bias);
        products(part, first, count);
        A* to = of_.q + this->first_ * of_.q_pixel + offset;
        for (int64_t r = 0; r < count; ++r)
          write_row(d_q_.get() + r * this->row_, image.width, image.scale,
                    to + pixels[part.first + first + r] * of_.q_pixel);
      }
    });
    A* const to_k = of_.k + this->first_ * of_.k_pixel + offset;
    A* const to_v = of_.v + this->first_ * of_.v_pixel + offset;
    for (int64_t i = 0; i < rows; ++i) {
      write_row(d_k_.get() + i * this->row_, image.width, A(1), to_k + pixels[i] * of_.k_pixel);
      write_row(d_v_.get() + i * this->row_, image.width, A(1), to_v + pixels[i] * of_.v_pixel);
    }
  }

 private:
  // The gradients of a block of logits; their weights get their sums of one.
  void differentiate(const Part& part, int64_t first, int64_t count) {
    const int64_t step = this->step_, width = padded<A>(part.keys());
    const A* grad = grad_.get() + (part.first + first) * this->row_;
    product(grad, this->row_, 1, v_columns_.get() + part.first, step, d_logits_.get(), step, count,
            padded<A>(part.pixels()), this->image_.width);
    for (int64_t r = 0; r < count; ++r) {
      A* weights = this->weights_.get() + r * step;
      A* d_logits = d_logits_.get() + r * step;
      std::fill(d_logits + part.pixels(), d_logits + width, A(0));  // values of zero
      const Vec<A> norm = all<A>(this->norms_[r]);
      Vec<A> mean{};
      for (int64_t m = 0; m < width; m += kLanes<A>) {
        const Vec<A> weight = load(weights + m) * norm;
        store(weights + m, weight);
        mean += weight * load(d_logits + m);
      }
      const Vec<A> shift = all<A>(sum_of_lanes<A>(mean));
      for (int64_t m = 0; m < width; m += kLanes<A>)
        store(d_logits + m, load(weights + m) * (load(d_logits + m) - shift));
    }
  }

  void add_bias(const Part& part, int64_t first, int64_t count, A* d_bias) const {
    for (int64_t r = 0; r < count; ++r) {
      A* to = d_bias + this->window_->tokens[part.first + first + r] * this->image_.tokens;
      const A* from = d_logits_.get() + r * this->step_;
      for (const Run& run : part.runs)
        for (int64_t i = 0; i < run.count; ++i) to[run.token + i] += from[run.column + i];
    }
  }

  // From the gradients of a block of logits: d_q, and what they add to d_k and d_v.
  void products(const Part& part, int64_t first, int64_t count) {
    const int64_t row = this->row_, step = this->step_, pixels = part.pixels(), at = (part.first + first) * row;
    A* d_k = d_k_.get() + part.first * row;
    A* d_v = d_v_.get() + part.first * row;
    const bool add = first > 0;  // what earlier rows added counts; uninitialised memory does not
    product(this->weights_.get(), 1, step, grad_.get() + at, row, d_v, row, pixels, row, count, add ? d_v : nullptr, row);
    product(d_logits_.get(), 1, step, this->q_.get() + at, row, d_k, row, pixels, row, count, add ? d_k : nullptr, row);
    product(d_logits_.get(), step, 1, this->k_.get() + part.first * row, row, d_q_.get(), row, count, row, pixels);
  }

  const ImageGradients<A> of_;
  const Buffer<A> grad_, d_k_, d_v_, d_q_, v_columns_, d_logits_;
};

void check(const Tensor& q, const Tensor& places, const OptionalTensor& regions, int64_t pixels, int64_t heads) {
  TORCH_CHECK_VALUE(q.dim() == 2 && places.dim() == 2 && places.scalar_type() == at::kInt && places.is_contiguous() &&
                        pixels > 0 && q.size(0) % pixels == 0 && heads > 0 && q.size(1) % heads == 0 &&
                        (!regions || (regions->sizes() == places.sizes() && regions->is_contiguous() &&
                                      regions->scalar_type() == at::kByte)),
                    "image_attention: shapes differ");
  if (places.numel() == 0) return;
  const int32_t* const data = places.const_data_ptr<int32_t>();
  const auto [least, most] = std::minmax_element(data, data + places.numel());
  TORCH_CHECK_INDEX(*least >= -1 && *most < pixels, "image_attention: a place is no pixel");
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

// q, k, v [P, h * D] -> out, rows that the places name.
void image_attention_out(
    const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& bias, const Tensor& places,
    const OptionalTensor& regions, int64_t pixels, int64_t heads, double scale, const Tensor& out) {
  check(q, places, regions, pixels, heads);
  check_rows(q, {q, k, v, out});
  const OptionalTensor dense = bias ? OptionalTensor(bias->to(q.scalar_type()).contiguous()) : bias;
  by_width(q, [&](auto a) {
    using A = decltype(a);
    const Image<A> image(q, k, v, dense, places, regions, pixels, heads, scale);
    const int64_t windows = image.images * static_cast<int64_t>(image.windows.size());
    at::parallel_for(0, windows * heads, 1, [&](int64_t begin, int64_t end) {
      Forward<A> work(image);
      for (int64_t task = begin; task < end; ++task)
        work.run(task / heads, task % heads, out.mutable_data_ptr<A>(), out.stride(0));
    });
  });
}

// The gradients of q, k, v, [P, h * D] each, and of the bias if it wants one.
Tensor image_attention_backward_out(
    const Tensor& grad, const Tensor& q, const Tensor& k, const Tensor& v, const OptionalTensor& bias,
    const Tensor& places, const OptionalTensor& regions, int64_t pixels, int64_t heads, double scale,
    bool bias_gradient, const Tensor& d_q, const Tensor& d_k, const Tensor& d_v) {
  check(q, places, regions, pixels, heads);
  check_rows(q, {grad, q, k, v, d_q, d_k, d_v});
  const int64_t tokens = places.size(1);
  const Tensor d_bias = bias_gradient ? at::zeros({heads, tokens, tokens}, q.options()) : at::empty({0}, q.options());
  const OptionalTensor dense = bias ? OptionalTensor(bias->to(q.scalar_type()).contiguous()) : bias;
  by_width(q, [&](auto a) {
    using A = decltype(a);
    const Image<A> image(q, k, v, dense, places, regions, pixels, heads, scale);
    const ImageGradients<A> of{grad.const_data_ptr<A>(), d_q.mutable_data_ptr<A>(), d_k.mutable_data_ptr<A>(),
                               d_v.mutable_data_ptr<A>(), grad.stride(0), d_q.stride(0), d_k.stride(0), d_v.stride(0)};
    Sizes s{};
    s.windows = image.images * static_cast<int64_t>(image.windows.size());
    s.heads = heads;
    s.queries = s.keys = tokens;
    if (s.windows > 0)
      in_slices(s, bias_gradient ? d_bias.mutable_data_ptr<A>() : nullptr, [&] { return Backward<A>(image, of); });
  });
  return d_bias;
}

}  // namespace

TORCH_LIBRARY_IMPL(focalsr, CPU, m) {
  m.impl("image_attention_out", image_attention_out);
  m.impl("image_attention_backward_out", image_attention_backward_out);
}

}  // namespace focalsr
