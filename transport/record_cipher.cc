#include "transport/record_cipher.h"

#include <openssl/evp.h>
#include <openssl/kdf.h>

#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace starling::transport {
namespace {

constexpr uint64_t kNumbersPerKey = uint64_t{1} << 20;

struct Free {
  void operator()(EVP_PKEY_CTX* context) const { EVP_PKEY_CTX_free(context); }
};

absl::StatusOr<CipherKey> NextKey(const CipherKey& key) {
  constexpr char kInfo[] = "starling stream: next key";
  const std::unique_ptr<EVP_PKEY_CTX, Free> kdf(EVP_PKEY_CTX_new_id(EVP_PKEY_HKDF, nullptr));
  CipherKey next;
  size_t length = next.size();
  if (!kdf || EVP_PKEY_derive_init(kdf.get()) <= 0 ||
      EVP_PKEY_CTX_set_hkdf_md(kdf.get(), EVP_sha256()) <= 0 ||
      EVP_PKEY_CTX_set1_hkdf_key(kdf.get(), key.data(), static_cast<int>(key.size())) <= 0 ||
      EVP_PKEY_CTX_add1_hkdf_info(kdf.get(), reinterpret_cast<const uint8_t*>(kInfo),
                                  sizeof(kInfo) - 1) <= 0 ||
      EVP_PKEY_derive(kdf.get(), next.data(), &length) <= 0 || length != next.size()) {
    return absl::InternalError("OpenSSL cannot derive the next key");
  }
  return next;
}

}  // namespace

struct RecordCipher::State {
  CipherKey key;
  uint64_t generation = 0;  // numbers / kNumbersPerKey that `key` is for
  std::unique_ptr<Gcm> gcm;
  uint64_t last[2] = {0, 0};  // of each kind, that was sealed
};

RecordCipher::RecordCipher(std::unique_ptr<State> state) : state_(std::move(state)) {}

RecordCipher::~RecordCipher() { OPENSSL_cleanse(state_->key.data(), state_->key.size()); }

absl::StatusOr<std::unique_ptr<RecordCipher>> RecordCipher::Create(const CipherKey& key) {
  auto state = std::make_unique<State>();
  state->key = key;
  ASSIGN_OR_RETURN(state->gcm, Gcm::Create(key));
  return std::unique_ptr<RecordCipher>(new RecordCipher(std::move(state)));
}

absl::Status RecordCipher::UseKeyOf(uint64_t number) {
  const uint64_t generation = number / kNumbersPerKey;
  if (generation < state_->generation || generation > state_->generation + 1) {
    return absl::DataLossError(absl::StrCat("record ", number, " is far from those before it"));
  }
  if (generation == state_->generation) return absl::OkStatus();
  ASSIGN_OR_RETURN(state_->key, NextKey(state_->key));
  state_->generation = generation;
  ASSIGN_OR_RETURN(state_->gcm, Gcm::Create(state_->key));
  return absl::OkStatus();
}

namespace {

CipherNonce Nonce(RecordCipher::Kind kind, uint64_t number) {
  CipherNonce nonce;
  const auto of = static_cast<uint32_t>(kind);
  std::memcpy(nonce.data(), &of, 4);
  std::memcpy(nonce.data() + 4, &number, 8);
  return nonce;
}

}  // namespace

absl::Status RecordCipher::Seal(Kind kind, uint64_t number, std::span<const std::byte> in,
                                std::span<std::byte> out, CipherTag& tag) {
  uint64_t& last = state_->last[static_cast<size_t>(kind)];
  if (number <= last || out.size() != in.size()) {
    return absl::InternalError(absl::StrCat("record ", number, " cannot be sealed after ", last));
  }
  RETURN_IF_ERROR(UseKeyOf(number));
  last = number;
  return state_->gcm->Seal(Nonce(kind, number), in, out, tag);
}

absl::Status RecordCipher::Open(Kind kind, uint64_t number, std::span<const std::byte> in,
                                std::span<const std::span<std::byte>> out, const CipherTag& tag) {
  size_t room = 0;
  for (const std::span<std::byte> piece : out) room += piece.size();
  if (room != in.size())
    return absl::DataLossError(
        absl::StrCat("record ", number, " has ", in.size(), " bytes for ", room));
  RETURN_IF_ERROR(UseKeyOf(number));
  const absl::Status opened = state_->gcm->Open(Nonce(kind, number), in, out, tag);
  if (absl::IsDataLoss(opened))
    return absl::DataLossError(absl::StrCat("record ", number, " was altered on its way"));
  return opened;
}

}  // namespace starling::transport
