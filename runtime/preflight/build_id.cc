#include "runtime/preflight/build_id.h"

#include <elf.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <vector>

#include "absl/strings/escaping.h"
#include "absl/strings/string_view.h"

namespace starling::preflight {
namespace {

constexpr size_t kMaxHeaders = 128;
constexpr size_t kMaxNotes = 64 * 1024;
// Longer than any digest a linker writes; the rest is a broken file.
constexpr size_t kMaxBuildId = 64;

// The build id in one PT_NOTE segment, empty if there is none. Every field may lie.
std::string FindInNotes(const std::vector<char>& notes, size_t align) {
  const auto padded = [align](size_t size) { return (size + align - 1) / align * align; };
  size_t at = 0;
  while (notes.size() - at >= sizeof(Elf64_Nhdr)) {
    Elf64_Nhdr header;  // the 32-bit one has the same fields
    memcpy(&header, notes.data() + at, sizeof(header));
    at += sizeof(header);
    const size_t left = notes.size() - at;
    if (header.n_namesz > left || padded(header.n_namesz) > left) return "";
    const size_t description = at + padded(header.n_namesz);
    if (header.n_descsz > notes.size() - description) return "";
    if (header.n_type == NT_GNU_BUILD_ID && header.n_namesz == 4 &&
        memcmp(notes.data() + at, "GNU", 4) == 0) {
      if (header.n_descsz == 0 || header.n_descsz > kMaxBuildId) return "";
      return absl::BytesToHexString(absl::string_view(notes.data() + description, header.n_descsz));
    }
    at = std::min(description + padded(header.n_descsz), notes.size());
  }
  return "";
}

template <typename Header, typename Segment>
std::string FindInFile(const ReadAt& read) {
  Header header;
  if (!read(0, &header, sizeof(header))) return "";
  if (header.e_phentsize != sizeof(Segment)) return "";
  const size_t count = std::min<size_t>(header.e_phnum, kMaxHeaders);
  for (size_t i = 0; i < count; ++i) {
    Segment segment;
    uint64_t offset = 0;
    if (__builtin_add_overflow(uint64_t{header.e_phoff}, i * sizeof(Segment), &offset)) return "";
    if (!read(offset, &segment, sizeof(segment))) return "";
    if (segment.p_type != PT_NOTE || segment.p_filesz == 0) continue;
    if (segment.p_filesz > kMaxNotes) continue;
    std::vector<char> notes(segment.p_filesz);
    if (!read(segment.p_offset, notes.data(), notes.size())) continue;
    std::string id = FindInNotes(notes, segment.p_align == 8 ? 8 : 4);
    if (!id.empty()) return id;
  }
  return "";
}

}  // namespace

std::string ParseBuildId(const ReadAt& read) {
  unsigned char ident[EI_NIDENT];
  if (!read(0, ident, sizeof(ident)) || memcmp(ident, ELFMAG, SELFMAG) != 0) return "";
  const unsigned char order = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? ELFDATA2LSB : ELFDATA2MSB;
  if (ident[EI_DATA] != order) return "";
  if (ident[EI_CLASS] == ELFCLASS64) return FindInFile<Elf64_Ehdr, Elf64_Phdr>(read);
  if (ident[EI_CLASS] == ELFCLASS32) return FindInFile<Elf32_Ehdr, Elf32_Phdr>(read);
  return "";
}

std::string ReadBuildId(int fd) {
  return ParseBuildId([fd](uint64_t offset, void* to, size_t size) {
    if (offset > INT64_MAX) return false;
    char* at = static_cast<char*>(to);
    while (size > 0) {
      const ssize_t n = ::pread(fd, at, size, static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n <= 0) return false;
      at += n;
      offset += static_cast<uint64_t>(n);
      size -= static_cast<size_t>(n);
    }
    return true;
  });
}

}  // namespace starling::preflight
