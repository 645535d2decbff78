#include "checkpoint/store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <random>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "checkpoint/store_layout.h"
#include "tests/runtime/scratch.h"

namespace starling::checkpoint {
namespace {

std::span<const std::byte> Bytes(const std::string& text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Content that does not compress, told by one number.
std::string Noise(uint32_t number, size_t size = kBlockBytes) {
  std::mt19937 random(number);
  std::string bytes(size, '\0');
  for (size_t i = 0; i + 4 <= size; i += 4) {
    const uint32_t word = random();
    std::memcpy(bytes.data() + i, &word, sizeof(word));
  }
  return bytes;
}

class StoreTest : public ::testing::Test {
 protected:
  void SetUp() override {
    ASSERT_TRUE(WriteFileAtomic(scratch_ / "key", std::string(64, 'a') + "\n", 0600).ok());
    ASSERT_TRUE(WriteFileAtomic(scratch_ / "other", std::string(64, 'b'), 0600).ok());
    key_ = StoreKey::Read(scratch_ / "key").value();
  }

  // A checkpoint of one process whose pages are these blocks, with one image and one file.
  absl::StatusOr<StoreTotals> Write(const std::vector<std::string>& blocks, uint32_t keep = 0,
                                    const StoreKey* key = nullptr) {
    auto begun = StoreWriter::Begin({.folder = folder_, .key = key});
    if (!begun.ok()) return begun.status();
    StoreWriter& writer = **begun;
    StoredContent content;
    content.about = "about";
    content.images.push_back({"core-1.img", writer.PutAll("an image").value()});
    StoredRun run;
    run.run = {{AddressSpace::Kind::kProcess, 1}, 0x10000, 0};
    for (const std::string& block : blocks) {
      run.chunks.push_back(writer.Put(Bytes(block)).value());
      run.run.pages += block.size() / kPageSize;
    }
    content.memory.push_back(run);
    content.memory.push_back({{{AddressSpace::Kind::kProcess, 2}, 0x1000, 7}, true, {}});
    StoredTree tree{"/srv/data", {}};
    tree.tree.push_back({.path = "", .mode = S_IFDIR | 0755});
    FileEntry file{.path = "file", .mode = S_IFREG | 0644, .size = blocks[0].size()};
    file.blocks.push_back({0, HashBlock(Bytes(blocks[0]), writer.seed()), run.chunks[0]});
    tree.tree.push_back(file);
    content.trees.push_back(tree);
    return writer.Commit(std::move(content), keep);
  }

  std::vector<std::string> Files(absl::string_view prefix) const {
    std::vector<std::string> names;
    for (const auto& item : std::filesystem::directory_iterator(folder_)) {
      const std::string name = item.path().filename().string();
      if (absl::StartsWith(name, prefix)) names.push_back(item.path().string());
    }
    std::sort(names.begin(), names.end());
    return names;
  }

  // Everything that a reader can read, as one text; or the error.
  static absl::StatusOr<std::string> ReadAll(StoreReader& reader) {
    std::string all = reader.manifest().content.about;
    for (const StoredImage& image : reader.manifest().content.images) {
      auto bytes = reader.All(image.chunks);
      if (!bytes.ok()) return bytes.status();
      absl::StrAppend(&all, image.name, *bytes);
    }
    for (const StoredRun& run : reader.manifest().content.memory) {
      auto bytes = reader.All(run.chunks);
      if (!bytes.ok()) return bytes.status();
      all.append(*bytes);
    }
    return all;
  }
  absl::StatusOr<std::string> Read(uint64_t number = 0, const StoreKey* key = nullptr) const {
    auto reader = StoreReader::Open(folder_, number, key);
    if (!reader.ok()) return reader.status();
    return ReadAll(**reader);
  }
  static std::string Whole(const std::vector<std::string>& blocks) {
    std::string all = "aboutcore-1.imgan image";
    for (const std::string& block : blocks) all += block;
    return all;
  }

  const Scratch scratch_{InMemory()};
  const std::string folder_ = scratch_ / "store";
  std::optional<StoreKey> key_;
};

TEST_F(StoreTest, GivesBackWhatItWasGiven) {
  const std::vector<std::string> blocks = {Noise(1), std::string(kBlockBytes, 'x'), Noise(2, 8192)};
  const auto totals = Write(blocks);
  ASSERT_TRUE(totals.ok()) << totals.status();
  EXPECT_EQ(Read().value(), Whole(blocks));
  const auto reader = StoreReader::Open(folder_, 0, nullptr).value();
  const StoredManifest& manifest = reader->manifest();
  EXPECT_EQ(manifest.number, 1u);
  ASSERT_EQ(manifest.content.memory.size(), 2u);
  EXPECT_EQ(manifest.content.memory[0].run.pages, 34u);
  EXPECT_TRUE(manifest.content.memory[1].zero);
  ASSERT_EQ(manifest.content.trees.size(), 1u);
  EXPECT_EQ(manifest.content.trees[0].tree[1].blocks[0].tag, manifest.content.memory[0].chunks[0]);
  // What compresses was compressed, and the file's block is the memory's.
  EXPECT_LT(totals->bytes_written, kBlockBytes + 8192 + 4096);
  EXPECT_GT(totals->bytes_written, kBlockBytes + 8192);
  EXPECT_EQ(totals->chunks, 4u);
}

TEST_F(StoreTest, OnlyTheOwnerMayRead) {
  ASSERT_TRUE(Write({Noise(1)}).ok());
  for (const auto& item : std::filesystem::recursive_directory_iterator(folder_)) {
    struct stat info;
    ASSERT_EQ(::stat(item.path().c_str(), &info), 0);
    EXPECT_EQ(info.st_mode & 077, 0u) << item.path();
  }
}

TEST_F(StoreTest, WritesOnlyWhatChanged) {
  std::vector<std::string> blocks;
  for (uint32_t i = 0; i < 16; ++i) blocks.push_back(Noise(i));
  ASSERT_TRUE(Write(blocks).ok());
  blocks[3] = Noise(100);
  const auto second = Write(blocks);
  ASSERT_TRUE(second.ok()) << second.status();
  EXPECT_EQ(second->chunks_written, 1u);
  EXPECT_LT(second->bytes_written, 2 * kBlockBytes);
  EXPECT_EQ(Read().value(), Whole(blocks));
  // And one in which nothing did has no pack of its own.
  const auto third = Write(blocks);
  EXPECT_EQ(third->chunks_written, 0u);
  EXPECT_EQ(Files("pack-").size(), 2u);
  EXPECT_EQ(Read(3).value(), Whole(blocks));
}

TEST_F(StoreTest, DropsOldOnesSafely) {
  std::vector<std::string> blocks;
  for (uint32_t i = 0; i < 8; ++i) blocks.push_back(Noise(i));
  ASSERT_TRUE(Write(blocks, 2).ok());
  for (uint32_t i = 0; i < 12; ++i) {
    blocks[i % 8] = Noise(200 + i);
    const auto totals = Write(blocks, 2);
    ASSERT_TRUE(totals.ok()) << totals.status();
    EXPECT_EQ(Read().value(), Whole(blocks)) << i;
    EXPECT_LE(Files("checkpoint-").size(), 2u);
    EXPECT_TRUE(Read(i + 1).ok()) << "the one before is whole as well";
  }
  // All blocks have been written anew since: nothing of the first ones is left, and packs of which
  // little was in use were not built upon.
  EXPECT_EQ(ListCheckpoints(folder_).value(), (std::vector<uint64_t>{12, 13}));
  uint64_t bytes = 0;
  for (const std::string& pack : Files("pack-")) bytes += std::filesystem::file_size(pack);
  EXPECT_LT(bytes, 3 * 8 * kBlockBytes);
}

TEST_F(StoreTest, WhatIsNotCommittedDoesNotExist) {
  ASSERT_TRUE(Write({Noise(1)}).ok());
  {
    const auto writer = StoreWriter::Begin({.folder = folder_}).value();
    for (uint32_t i = 50; i < 200; ++i) ASSERT_TRUE(writer->Put(Bytes(Noise(i))).ok());
  }
  EXPECT_EQ(Files("pack-").size(), 1u);
  EXPECT_EQ(Read().value(), Whole({Noise(1)}));
  // What a crash left is swept up by the next one.
  ASSERT_TRUE(WriteFileAtomic(folder_ + "/pack-00000000000000000000000000000000", "x").ok());
  ASSERT_TRUE(WriteFileAtomic(folder_ + "/pack-11111111111111111111111111111111.new", "x").ok());
  ASSERT_TRUE(Write({Noise(1)}).ok());
  EXPECT_EQ(Files("pack-").size(), 1u);
}

TEST_F(StoreTest, OneWriterAtATime) {
  const auto writer = StoreWriter::Begin({.folder = folder_}).value();
  const auto second = StoreWriter::Begin({.folder = folder_});
  EXPECT_TRUE(absl::IsFailedPrecondition(second.status())) << second.status();
}

TEST_F(StoreTest, BelongsToOneComponent) {
  ASSERT_TRUE(Write({Noise(1)}).ok());
  const auto refused = StoreWriter::Begin(
      {.folder = folder_, .belongs = [](const std::string& about) {
         return about == "about" ? absl::FailedPreconditionError("another's") : absl::OkStatus();
       }});
  EXPECT_EQ(refused.status().message(), "another's");
}

TEST_F(StoreTest, EncryptedIsReadWithItsKeyAlone) {
  const std::vector<std::string> blocks = {Noise(1), std::string(kBlockBytes, 'S')};
  ASSERT_TRUE(Write(blocks, 0, &*key_).ok());
  EXPECT_EQ(Read(0, &*key_).value(), Whole(blocks));
  EXPECT_TRUE(absl::IsFailedPrecondition(Read().status()));
  const StoreKey other = StoreKey::Read(scratch_ / "other").value();
  EXPECT_TRUE(absl::IsDataLoss(Read(0, &other).status())) << Read(0, &other).status();
  for (const std::string& path : {Files("pack-")[0], Files("checkpoint-")[0]}) {
    const std::string bytes = ReadFile(path).value();
    EXPECT_FALSE(absl::StrContains(bytes, "SSSSSSSS")) << path;
    EXPECT_FALSE(absl::StrContains(bytes, "core-1.img")) << path;
  }
  // Incremental as others are; and never a mix of both kinds.
  EXPECT_EQ(Write(blocks, 0, &*key_)->chunks_written, 0u);
  EXPECT_TRUE(absl::IsFailedPrecondition(Write(blocks).status()));
}

TEST_F(StoreTest, PlainOnesAreRefusedWhereAKeyIsGiven) {
  ASSERT_TRUE(Write({Noise(1)}).ok());
  EXPECT_TRUE(absl::IsFailedPrecondition(Read(0, &*key_).status()));
  EXPECT_TRUE(absl::IsFailedPrecondition(Write({Noise(1)}, 0, &*key_).status()));
}

TEST_F(StoreTest, TheSameContentIsNeverEncryptedAlike) {
  ASSERT_TRUE(Write({Noise(1)}, 0, &*key_).ok());
  const std::string one = ReadFile(Files("pack-")[0]).value();
  ASSERT_TRUE(RemoveTree(folder_).ok());
  ASSERT_TRUE(Write({Noise(1)}, 0, &*key_).ok());
  const std::string two = ReadFile(Files("pack-")[0]).value();
  ASSERT_EQ(one.size(), two.size());
  EXPECT_NE(one.substr(kPackHeadBytes), two.substr(kPackHeadBytes));
}

TEST_F(StoreTest, KeysAreChecked) {
  ASSERT_TRUE(WriteFileAtomic(scratch_ / "short", "abc").ok());
  const auto key = StoreKey::Read(scratch_ / "short");
  EXPECT_TRUE(absl::IsInvalidArgument(key.status()));
  EXPECT_TRUE(absl::StrContains(key.status().message(), scratch_ / "short"));
  ASSERT_TRUE(WriteFileAtomic(scratch_ / "raw", std::string(32, '\xaa')).ok());
  EXPECT_TRUE(StoreKey::Read(scratch_ / "raw").ok());
}

// Of every file of a checkpoint: whatever is cut off or turned over is found, by the file's name.
class DamagedStoreTest : public StoreTest, public ::testing::WithParamInterface<bool> {
 protected:
  const StoreKey* key() const { return GetParam() ? &*key_ : nullptr; }
  void ExpectRefused(const std::string& path, const std::string& how) {
    const auto read = Read(0, key());
    EXPECT_TRUE(absl::IsDataLoss(read.status())) << how << " of " << path << ": " << read.status();
    EXPECT_TRUE(absl::StrContains(read.status().message(), path)) << read.status();
  }
};

TEST_P(DamagedStoreTest, EveryCutIsFound) {
  ASSERT_TRUE(Write({Noise(1, 4096), std::string(4096, 'x')}, 0, key()).ok());
  for (const std::string& path : {Files("checkpoint-")[0], Files("pack-")[0]}) {
    const std::string good = ReadFile(path).value();
    for (size_t size = 0; size < good.size(); size += 1 + good.size() / 97) {
      ASSERT_TRUE(WriteFileAtomic(path, good.substr(0, size)).ok());
      ExpectRefused(path, absl::StrCat("the first ", size, " bytes"));
    }
    ASSERT_TRUE(WriteFileAtomic(path, good + "x").ok());
    ExpectRefused(path, "more than the whole");
    ASSERT_EQ(::unlink(path.c_str()), 0);
    EXPECT_FALSE(Read(0, key()).ok());
    ASSERT_TRUE(WriteFileAtomic(path, good).ok());
  }
  EXPECT_TRUE(Read(0, key()).ok());
}

TEST_P(DamagedStoreTest, EveryFlippedBitIsFound) {
  ASSERT_TRUE(Write({Noise(1, 4096), std::string(4096, 'x')}, 0, key()).ok());
  for (const std::string& path : {Files("checkpoint-")[0], Files("pack-")[0]}) {
    const std::string good = ReadFile(path).value();
    for (size_t at = 0; at < good.size(); at += 1 + good.size() / 499) {
      std::string bad = good;
      bad[at] = static_cast<char>(bad[at] ^ (1 << (at % 8)));
      ASSERT_TRUE(WriteFileAtomic(path, bad).ok());
      const auto read = Read(0, key());
      // Flags and version say more than that something is wrong.
      EXPECT_FALSE(read.ok()) << "bit in byte " << at << " of " << path;
      EXPECT_TRUE(absl::StrContains(read.status().message(), path)) << read.status();
    }
    ASSERT_TRUE(WriteFileAtomic(path, good).ok());
  }
}

TEST_P(DamagedStoreTest, FilesOfTwoCheckpointsDoNotMix) {
  ASSERT_TRUE(Write({Noise(1)}, 0, key()).ok());
  const std::string first_pack = Files("pack-")[0];
  ASSERT_TRUE(Write({Noise(2)}, 0, key()).ok());
  std::vector<std::string> packs = Files("pack-");
  const std::string second_pack = packs[0] == first_pack ? packs[1] : packs[0];
  const std::string good = ReadFile(second_pack).value();
  // One pack under the name of another, ...
  ASSERT_TRUE(WriteFileAtomic(second_pack, ReadFile(first_pack).value()).ok());
  ExpectRefused(second_pack, "another pack");
  ASSERT_TRUE(WriteFileAtomic(second_pack, good).ok());
  // ... and an older manifest under the name of a newer one.
  const std::string newest = Files("checkpoint-")[1];
  ASSERT_TRUE(WriteFileAtomic(newest, ReadFile(Files("checkpoint-")[0]).value()).ok());
  ExpectRefused(newest, "another manifest");
}

INSTANTIATE_TEST_SUITE_P(PlainAndEncrypted, DamagedStoreTest, ::testing::Bool());

TEST_F(StoreTest, ADamagedOneDoesNotStandInTheWay) {
  ASSERT_TRUE(Write({Noise(1)}).ok());
  ASSERT_TRUE(Write({Noise(2)}).ok());
  ASSERT_TRUE(WriteFileAtomic(Files("checkpoint-")[1], "rubbish").ok());
  {
    const auto writer = StoreWriter::Begin({.folder = folder_}).value();
    ASSERT_EQ(writer->damaged().size(), 1u);
    EXPECT_TRUE(absl::StrContains(writer->damaged()[0], "checkpoint-00000002 is cut short"));
  }
  const auto totals = Write({Noise(1)}, 1);
  ASSERT_TRUE(totals.ok()) << totals.status();
  EXPECT_EQ(totals->chunks_written, 0u) << "built upon the newest that is whole";
  EXPECT_EQ(Read(3).value(), Whole({Noise(1)}));
  EXPECT_EQ(ListCheckpoints(folder_).value(), (std::vector<uint64_t>{2, 3}));
  EXPECT_EQ(Files("pack-").size(), 2u) << "what the damaged one needs is left alone";
}

// A manifest that is well hashed and says what cannot be.
TEST_F(StoreTest, AManifestIsNotBelieved) {
  ASSERT_TRUE(Write({Noise(1, 8192)}).ok());
  const StoredManifest good =
      DecodeManifest(ReadFile(Files("checkpoint-")[0]).value(), nullptr).value();
  const auto refused = [&](const std::function<void(StoredManifest&)>& change) {
    StoredManifest bad = good;
    change(bad);
    const auto decoded = DecodeManifest(
        EncodeManifest(bad, std::string(kStoreIdBytes, 'i'), nullptr).value(), nullptr);
    return absl::IsDataLoss(decoded.status());
  };
  EXPECT_FALSE(refused([](StoredManifest&) {}));
  EXPECT_TRUE(refused([](StoredManifest& m) { m.packs[0].id = "short"; }));
  EXPECT_TRUE(refused([](StoredManifest& m) { m.packs[0].digest.clear(); }));
  EXPECT_TRUE(refused([](StoredManifest& m) { m.packs.push_back(m.packs[0]); }));
  EXPECT_TRUE(refused([](StoredManifest& m) { m.chunks[0].pack = 1; }));
  EXPECT_TRUE(refused([](StoredManifest& m) { m.chunks[0].offset = 0; }));
  EXPECT_TRUE(refused([](StoredManifest& m) { m.chunks[0].offset = ~uint64_t{0}; }));
  EXPECT_TRUE(refused([](StoredManifest& m) { m.chunks[0].stored_bytes = 1 << 30; }));
  EXPECT_TRUE(refused([](StoredManifest& m) { m.chunks[0].bytes = kBlockBytes + 1; }));
  EXPECT_TRUE(refused([](StoredManifest& m) { m.chunks[0].bytes = 0; }));
  EXPECT_TRUE(refused([](StoredManifest& m) { m.content.images[0].name = "../x"; }));
  EXPECT_TRUE(refused([](StoredManifest& m) { m.content.images[0].name = "a/b"; }));
  EXPECT_TRUE(refused([](StoredManifest& m) { m.content.images[0].chunks = {99}; }));
  EXPECT_TRUE(refused([](StoredManifest& m) { m.content.memory[0].run.pages = 3; }));
  EXPECT_TRUE(refused([](StoredManifest& m) { m.content.memory[0].run.address = 5; }));
  EXPECT_TRUE(refused([](StoredManifest& m) { m.content.memory[1].run.pages = ~uint64_t{0}; }));
  EXPECT_TRUE(refused([](StoredManifest& m) { m.content.memory[0].run.space.kind = {}; }));
  EXPECT_TRUE(refused([](StoredManifest& m) { m.content.memory[0].chunks = {99}; }));
  EXPECT_TRUE(refused([](StoredManifest& m) { m.content.trees[0].path = "relative"; }));
  EXPECT_TRUE(refused([](StoredManifest& m) { m.content.trees[0].tree[1].path = "../file"; }));
  EXPECT_TRUE(refused([](StoredManifest& m) { m.content.trees[0].tree[1].blocks[0].tag = 99; }));
  EXPECT_TRUE(
      refused([](StoredManifest& m) { m.content.trees[0].tree[1].blocks[0].hash.low ^= 1; }));
}

}  // namespace
}  // namespace starling::checkpoint
