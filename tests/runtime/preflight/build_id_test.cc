#include "runtime/preflight/build_id.h"

#include <elf.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "absl/strings/str_cat.h"
#include "base/file.h"

namespace starling::preflight {
namespace {

std::string Parse(const std::vector<char>& bytes) {
  return ParseBuildId([&bytes](uint64_t offset, void* to, size_t size) {
    if (offset > bytes.size() || size > bytes.size() - offset) return false;
    memcpy(to, bytes.data() + offset, size);
    return true;
  });
}

// An ELF file with one note segment: another vendor's note first, then the build id 01 02 .. 08.
template <typename Header, typename Segment>
std::vector<char> MakeElf(unsigned char elf_class) {
  std::string notes;
  const auto add = [&notes](uint32_t type, std::string name, std::string description) {
    const uint32_t sizes[3] = {static_cast<uint32_t>(name.size()),
                               static_cast<uint32_t>(description.size()), type};
    name.resize((name.size() + 3) / 4 * 4);
    description.resize((description.size() + 3) / 4 * 4);
    notes.append(reinterpret_cast<const char*>(sizes), sizeof(sizes));
    notes += name + description;
  };
  add(NT_GNU_BUILD_ID, std::string("OTHER\0", 6), "xyz");
  add(NT_GNU_ABI_TAG, std::string("GNU\0", 4), "0123456789abcdef");
  add(NT_GNU_BUILD_ID, std::string("GNU\0", 4), "\x01\x02\x03\x04\x05\x06\x07\x08");

  Header header = {};
  memcpy(header.e_ident, ELFMAG, SELFMAG);
  header.e_ident[EI_CLASS] = elf_class;
  header.e_ident[EI_DATA] = ELFDATA2LSB;
  header.e_phoff = sizeof(Header);
  header.e_phentsize = sizeof(Segment);
  header.e_phnum = 2;
  Segment segments[2] = {};
  segments[0].p_type = PT_LOAD;
  segments[1].p_type = PT_NOTE;
  segments[1].p_offset = sizeof(Header) + sizeof(segments);
  segments[1].p_filesz = static_cast<decltype(segments[1].p_filesz)>(notes.size());
  segments[1].p_align = 4;
  std::vector<char> file(sizeof(header) + sizeof(segments));
  memcpy(file.data(), &header, sizeof(header));
  memcpy(file.data() + sizeof(header), segments, sizeof(segments));
  file.insert(file.end(), notes.begin(), notes.end());
  return file;
}

TEST(BuildIdTest, FindsItAmongOtherNotes) {
  EXPECT_EQ(Parse(MakeElf<Elf64_Ehdr, Elf64_Phdr>(ELFCLASS64)), "0102030405060708");
  EXPECT_EQ(Parse(MakeElf<Elf32_Ehdr, Elf32_Phdr>(ELFCLASS32)), "0102030405060708");
}

TEST(BuildIdTest, AgreesWithReadelf) {
  int compared = 0;
  for (const char* path : {"/bin/ls", "/bin/bash", "/lib64/ld-linux-x86-64.so.2"}) {
    const auto fd = OpenFile(path, O_RDONLY);
    if (!fd.ok()) continue;
    const std::string command =
        absl::StrCat("readelf -n ", path, " 2>/dev/null | sed -n 's/.*Build ID: //p'");
    const std::unique_ptr<FILE, int (*)(FILE*)> pipe(popen(command.c_str(), "r"), &pclose);
    char line[200] = "";
    if (fgets(line, sizeof(line), pipe.get()) == nullptr) continue;
    line[strcspn(line, "\n")] = '\0';
    EXPECT_EQ(ReadBuildId(fd->get()), line) << path;
    ++compared;
  }
  if (compared == 0) GTEST_SKIP() << "readelf (binutils) is not installed";
}

TEST(BuildIdTest, OtherFilesHaveNone) {
  EXPECT_EQ(Parse({}), "");
  EXPECT_EQ(Parse({'#', '!', '/', 'b', 'i', 'n', '/', 's', 'h'}), "");
  auto swapped = MakeElf<Elf64_Ehdr, Elf64_Phdr>(ELFCLASS64);
  swapped[EI_DATA] = ELFDATA2MSB;
  EXPECT_EQ(Parse(swapped), "");
}

TEST(BuildIdTest, TruncatedAnywhereItFindsNothingAndReadsNothingBeyond) {
  const auto whole = MakeElf<Elf64_Ehdr, Elf64_Phdr>(ELFCLASS64);
  for (size_t size = 0; size < whole.size(); ++size) {
    EXPECT_EQ(Parse({whole.begin(), whole.begin() + static_cast<long>(size)}), "") << size;
  }
}

TEST(BuildIdTest, HostileSizesCostNothing) {
  auto file = MakeElf<Elf64_Ehdr, Elf64_Phdr>(ELFCLASS64);
  Elf64_Ehdr header;
  memcpy(&header, file.data(), sizeof(header));
  header.e_phoff = ~0ull - 8;
  header.e_phnum = 0xffff;
  memcpy(file.data(), &header, sizeof(header));
  EXPECT_EQ(Parse(file), "");

  file = MakeElf<Elf64_Ehdr, Elf64_Phdr>(ELFCLASS64);
  const uint64_t huge = ~0ull;
  memcpy(file.data() + sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr) + offsetof(Elf64_Phdr, p_filesz),
         &huge, sizeof(huge));
  EXPECT_EQ(Parse(file), "");
}

TEST(BuildIdTest, RandomDamageNeverReadsOutside) {
  std::mt19937 random(1);
  const auto whole64 = MakeElf<Elf64_Ehdr, Elf64_Phdr>(ELFCLASS64);
  const auto whole32 = MakeElf<Elf32_Ehdr, Elf32_Phdr>(ELFCLASS32);
  for (int round = 0; round < 20000; ++round) {
    auto file = round % 2 == 0 ? whole64 : whole32;
    for (int i = 0; i < 4; ++i) file[random() % file.size()] = static_cast<char>(random());
    file.resize(file.size() - random() % 16);
    EXPECT_LE(Parse(file).size(), 128u);
  }
}

}  // namespace
}  // namespace starling::preflight
