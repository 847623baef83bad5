// Memory of large tensors of the CPU that is kept between uses: what one operator frees is what the next one takes.
//
// The C library returns large blocks to the system when they are freed, and the system hands out zeroed pages, one fault
// each, which takes longer than many an operator on them. A heap that keeps everything grows instead: blocks of other
// sizes leave gaps. Here free ranges are cut and joined as they are needed, and where none is large enough, others go
// back to the system first, so that what is kept never makes more of the process than its tensors have taken at most.
#include <c10/core/Allocator.h>
#include <c10/core/CPUAllocator.h>
#include <pthread.h>
#include <sys/mman.h>
#include <torch/library.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <set>
#include <unordered_map>
#include <utility>

namespace focalsr {
namespace {

constexpr std::size_t kLeast = 1 << 18;  // bytes; the heap keeps smaller blocks by itself
constexpr std::size_t kMore = 32;        // one part in so many may be kept beyond the most that tensors have taken

class Keeper final : public c10::Allocator {
 public:
  explicit Keeper(c10::Allocator* others) : others_(others) {}

  c10::DataPtr allocate(std::size_t bytes) override {
    char* at = bytes < kLeast || keepers_.load(std::memory_order_relaxed) == 0 ? nullptr : take(bytes);
    if (at == nullptr) return others_->allocate(bytes);  // it also knows what to say where memory is full
    return {at, at, &Keeper::release, c10::Device(c10::DeviceType::CPU)};
  }

  c10::DeleterFnPtr raw_deleter() const override { return &Keeper::release; }

  void copy_data(void* to, const void* from, std::size_t bytes) const override { default_copy_data(to, from, bytes); }

  void begin() {
    const std::lock_guard<std::mutex> guard(mutex_);
    if (keepers_++ == 0) most_ = used_;
  }

  void end() {
    const std::lock_guard<std::mutex> guard(mutex_);
    if (--keepers_ == 0) give_back(kept_);
  }

  int64_t kept() {
    const std::lock_guard<std::mutex> guard(mutex_);
    return static_cast<int64_t>(kept_);
  }

  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  static void release(void* memory);

  char* take(std::size_t bytes) {
    const std::size_t size = (bytes + page_ - 1) / page_ * page_;
    const std::lock_guard<std::mutex> guard(mutex_);
    const auto found = by_size_.lower_bound({size, nullptr});
    char* at = nullptr;
    if (found != by_size_.end()) {
      const auto [length, begin] = *found;
      remove(begin, length);
      if (length > size) insert(begin + size, length - size);
      at = begin;
    } else {
      const std::size_t most = std::max(most_ + most_ / kMore, used_ + size), wanted = used_ + kept_ + size;
      if (wanted > most) give_back(wanted - most);
      at = mapped(size);
      if (at == nullptr) {
        give_back(kept_);
        at = mapped(size);
      }
      if (at == nullptr) return nullptr;
    }
    used_ += size;
    most_ = std::max(most_, used_);
    sizes_[at] = size;
    c10::profiledCPUMemoryReporter().New(at, bytes);
    return at;
  }

  // Whether the memory is of this kind.
  bool put(char* at) {
    const std::lock_guard<std::mutex> guard(mutex_);
    const auto found = sizes_.find(at);
    if (found == sizes_.end()) return false;
    c10::profiledCPUMemoryReporter().Delete(at);
    std::size_t size = found->second;
    sizes_.erase(found);
    used_ -= size;
    if (keepers_ == 0) {
      munmap(at, size);
      return true;
    }
    const auto after = by_place_.find(at + size);
    if (after != by_place_.end()) {
      size += after->second;
      remove(after->first, after->second);
    }
    auto before = by_place_.lower_bound(at);
    if (before != by_place_.begin() && (--before)->first + before->second == at) {
      at = before->first;
      size += before->second;
      remove(before->first, before->second);
    }
    insert(at, size);
    return true;
  }

  // Small ranges first: large ones can be cut to any size.
  void give_back(std::size_t bytes) {
    while (bytes > 0 && !by_size_.empty()) {
      const auto [length, begin] = *by_size_.begin();
      const std::size_t part = std::min(length, bytes);
      remove(begin, length);
      munmap(begin + (length - part), part);
      if (length > part) insert(begin, length - part);
      bytes -= part;
    }
  }

  static char* mapped(std::size_t size) {
    void* at = mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return at == MAP_FAILED ? nullptr : static_cast<char*>(at);
  }

  void insert(char* begin, std::size_t length) {
    by_place_.emplace(begin, length);
    by_size_.emplace(length, begin);
    kept_ += length;
  }

  void remove(char* begin, std::size_t length) {
    by_place_.erase(begin);
    by_size_.erase({length, begin});
    kept_ -= length;
  }

  c10::Allocator* others_;
  const std::size_t page_ = sysconf(_SC_PAGESIZE);
  std::mutex mutex_;
  std::atomic<int64_t> keepers_{0};
  std::unordered_map<char*, std::size_t> sizes_;  // of blocks in use
  std::map<char*, std::size_t> by_place_;  // free ranges
  std::set<std::pair<std::size_t, char*>> by_size_;  // the same
  std::size_t used_ = 0, kept_ = 0, most_ = 0;  // bytes; most of used_
};

Keeper* keeper = nullptr;  // never destroyed: tensors may outlive the library's own objects

void Keeper::release(void* memory) {
  if (memory != nullptr && !keeper->put(static_cast<char*>(memory))) keeper->others_->raw_deallocate(memory);
}

Keeper& installed() {
  static const bool once = [] {
    keeper = new Keeper(c10::GetCPUAllocator());
    // A process that is forked while another thread holds the lock would never get it.
    pthread_atfork([] { keeper->lock(); }, [] { keeper->unlock(); }, [] { keeper->unlock(); });
    c10::SetCPUAllocator(keeper);
    return true;
  }();
  (void)once;
  return *keeper;
}

TORCH_LIBRARY_FRAGMENT(focalsr, library) {
  library.def("memory_keep() -> ()", [] { installed().begin(); });
  library.def("memory_return() -> ()", [] { installed().end(); });
  library.def("memory_kept() -> int", [] { return installed().kept(); });
}

}  // namespace
}  // namespace focalsr
