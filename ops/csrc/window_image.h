// Windows of an image as lists of its pixels, for attention from image to image on the CPU.
//
// Shapes: P pixels of all images, B images of n windows each, N queries and M keys of a window, h heads of width D.
// Tables of places, [n, N] and [n, M]: the pixel of an image that a token is, or -1 outside of it.
#pragma once

#include <ATen/core/Tensor.h>

#include <algorithm>
#include <numeric>
#include <vector>

#include "window.h"
#include "window_rows.h"

namespace focalsr {

// Columns of logits whose keys follow each other in the window.
struct Run {
  int64_t column, token, count;
};

// Tokens that see each other, in the order of a window: queries [first, last), keys in the image and keys of zeros.
struct Part {
  int64_t first, last, first_key, last_key, first_zero, last_zero;
  std::vector<Run> runs;  // of all of its keys

  int64_t queries() const { return last - first; }
  int64_t pixels() const { return last_key - first_key; }
  int64_t keys() const { return pixels() + last_zero - first_zero; }
};

// Tokens of a window, those in the image beside their pixels.
struct Tokens {
  std::vector<int32_t> tokens, pixels, zeros;  // zeros: tokens outside of the image

  void add(int32_t token, int32_t pixel) {
    if (pixel < 0) return zeros.push_back(token);
    tokens.push_back(token);
    pixels.push_back(pixel);
  }
  int64_t inside() const { return tokens.size(); }
  int64_t outside() const { return zeros.size(); }
};

// One of the n windows of an image: tokens by region. Without regions keys may be other pixels than queries.
struct Window {
  Tokens queries, keys;
  std::vector<Part> parts;  // by region
  Part whole;
  bool plain;  // whole, and its tokens in their order

  Window(const int32_t* places, int64_t count, const int32_t* key_places, int64_t key_count, const uint8_t* regions) {
    std::vector<int32_t> order(count);
    std::iota(order.begin(), order.end(), 0);
    if (key_places != nullptr) {
      for (const int32_t t : order) queries.add(t, places[t]);
      for (int64_t t = 0; t < key_count; ++t) keys.add(static_cast<int32_t>(t), key_places[t]);
      parts.push_back({0, queries.inside(), 0, keys.inside(), 0, keys.outside(), {}});
    } else {
      const auto region = [&](int32_t t) { return regions == nullptr ? 0 : static_cast<int>(regions[t]); };
      std::stable_sort(order.begin(), order.end(), [&](int32_t a, int32_t b) { return region(a) < region(b); });
      for (int64_t i = 0; i < count; ++i) {
        const int64_t row = queries.inside(), zero = queries.outside();
        if (i == 0 || region(order[i]) != region(order[i - 1])) parts.push_back({row, row, row, row, zero, zero, {}});
        queries.add(order[i], places[order[i]]);
        parts.back().last = parts.back().last_key = queries.inside();
        parts.back().last_zero = queries.outside();
      }
      keys = queries;
    }
    whole = {0, queries.inside(), 0, keys.inside(), 0, keys.outside(), {}};
    for (Part& part : parts) find_runs(part);
    find_runs(whole);
    plain = parts.size() == 1 && queries.inside() == count && keys.outside() == 0 && whole.runs.size() == 1 &&
            keys.inside() % 8 == 0;
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
    for (int64_t i = part.first_key; i < part.last_key; ++i) add(i - part.first_key, keys.tokens[i]);
    for (int64_t i = part.first_zero; i < part.last_zero; ++i) add(part.pixels() + i - part.first_zero, keys.zeros[i]);
  }
};

// What an operator is given beside q, k and v.
struct Layout {
  const OptionalTensor& bias;  // [h, N, M]
  const Tensor& places;
  const OptionalTensor& key_places;  // none: the keys are the queries
  const OptionalTensor& regions;     // [n, N] uint8
  int64_t pixels, heads;

  int64_t queries() const { return places.size(1); }
  int64_t keys() const { return key_places ? key_places->size(1) : queries(); }
};

// What both directions are given. Rows of q, k, v are pixels, `steps` numbers apart, with heads side by side.
template <class A>
struct Image {
  const A *q, *k, *v, *bias;  // bias [h, N, M] or null
  int64_t q_pixel, k_pixel, v_pixel;
  int64_t images, pixels, heads, width, queries, keys;
  A scale;
  std::vector<Window> windows;
  std::vector<A> largest;  // magnitude of the bias, by head

  Image(const Tensor& q, const Tensor& k, const Tensor& v, const Layout& of, double scale)
      : q(q.const_data_ptr<A>()), k(k.const_data_ptr<A>()), v(v.const_data_ptr<A>()),
        bias(of.bias ? of.bias->const_data_ptr<A>() : nullptr), q_pixel(q.stride(0)), k_pixel(k.stride(0)),
        v_pixel(v.stride(0)), images(q.size(0) / of.pixels), pixels(of.pixels), heads(of.heads),
        width(q.size(1) / of.heads), queries(of.queries()), keys(of.keys()), scale(static_cast<A>(scale)),
        largest(of.heads, A(0)) {
    for (int64_t w = 0; w < of.places.size(0); ++w)
      windows.emplace_back(
          of.places.const_data_ptr<int32_t>() + w * queries, queries,
          of.key_places ? of.key_places->const_data_ptr<int32_t>() + w * keys : nullptr, keys,
          of.regions ? of.regions->const_data_ptr<uint8_t>() + w * queries : nullptr);
    for (int64_t head = 0; bias != nullptr && head < heads; ++head)
      largest[head] = largest_magnitude(bias + head * queries * keys, queries * keys);
  }

  const A* bias_row(int64_t head, int64_t query) const { return bias + (head * queries + query) * keys; }

  int64_t row_step() const { return padded<A>(width); }
  // From one row of logits, or channel of transposed keys, to the next; never a multiple of 512 bytes, and with room for
  // a vector more.
  int64_t step() const {
    const int64_t room = padded<A>(keys) + 64 / sizeof(A);
    return room * sizeof(A) % 512 == 0 ? room + 64 / sizeof(A) : room;
  }
  // Rows of a block of logits.
  int64_t block() const {
    const int64_t fitting = kBlockBytes / (step() * static_cast<int64_t>(sizeof(A)));
    return std::min(std::max<int64_t>(fitting / 6 * 6, 6), (queries + 5) / 6 * 6);
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

// A padded row -> a pixel of a head, times a factor; added to what is there.
template <class A, bool kAdd = false>
void write_row(const A* from, int64_t width, A factor, A* to) {
  int64_t c = 0;
  for (; c + kLanes<A> <= width; c += kLanes<A>) {
    const Vec<A> value = load(from + c) * factor;
    store(to + c, kAdd ? load(to + c) + value : value);
  }
  for (; c < width; ++c) to[c] = kAdd ? to[c] + from[c] * factor : from[c] * factor;
}

// Padded rows -> [width, step], zeros after the last row.
template <class A>
void transpose_rows(const A* rows, int64_t count, int64_t width, A* to, int64_t step) {
  pack_columns<A>(rows, padded<A>(width), 1, count, width, to, step);
  for (int64_t c = 0; c < width; ++c) std::fill(to + c * step + count, to + (c + 1) * step, A(0));
}

}  // namespace focalsr
