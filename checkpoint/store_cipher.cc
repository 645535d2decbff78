#include "checkpoint/store_cipher.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include <cstdlib>
#include <cstring>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"

namespace starling::checkpoint {
namespace {

constexpr size_t kNonceBytes = 12;

const unsigned char* Bytes(absl::string_view text) {
  return reinterpret_cast<const unsigned char*>(text.data());
}

// The library fails only for want of memory in what is never fed from outside.
void Must(bool good) {
  if (!good) std::abort();
}

std::array<unsigned char, kNonceBytes> NonceOf(uint64_t number) {
  std::array<unsigned char, kNonceBytes> nonce{};
  for (size_t i = 0; i < sizeof(number); ++i) {
    nonce[kNonceBytes - sizeof(number) + i] = static_cast<unsigned char>(number >> (8 * i));
  }
  return nonce;
}

}  // namespace

struct Cipher::Context {
  std::array<uint8_t, kKeyBytes> key;
  EVP_CIPHER_CTX* evp = nullptr;
};

Cipher::Cipher(const std::array<uint8_t, kKeyBytes>& key) : context_(new Context{key}) {
  context_->evp = EVP_CIPHER_CTX_new();
  Must(context_->evp != nullptr);
}

Cipher::~Cipher() {
  if (context_ == nullptr) return;
  EVP_CIPHER_CTX_free(context_->evp);
  OPENSSL_cleanse(context_->key.data(), context_->key.size());
}
Cipher::Cipher(Cipher&&) noexcept = default;
Cipher& Cipher::operator=(Cipher&& other) noexcept {
  std::swap(context_, other.context_);
  return *this;
}

absl::Status Cipher::Seal(uint64_t nonce, absl::string_view bound, absl::string_view plain,
                          std::string* to) {
  const auto iv = NonceOf(nonce);
  EVP_CIPHER_CTX* const evp = context_->evp;
  const size_t at = to->size();
  to->resize(at + plain.size() + kTagBytes);
  auto* const out = reinterpret_cast<unsigned char*>(to->data() + at);
  int size = 0;
  int rest = 0;
  const bool done =
      EVP_EncryptInit_ex(evp, EVP_aes_256_gcm(), nullptr, context_->key.data(), iv.data()) == 1 &&
      EVP_EncryptUpdate(evp, nullptr, &size, Bytes(bound), static_cast<int>(bound.size())) == 1 &&
      EVP_EncryptUpdate(evp, out, &size, Bytes(plain), static_cast<int>(plain.size())) == 1 &&
      EVP_EncryptFinal_ex(evp, out + size, &rest) == 1 &&
      EVP_CIPHER_CTX_ctrl(evp, EVP_CTRL_GCM_GET_TAG, static_cast<int>(kTagBytes),
                          out + plain.size()) == 1;
  return done ? absl::OkStatus() : absl::InternalError("AES-256-GCM does not encrypt");
}

absl::StatusOr<std::string> Cipher::Open(uint64_t nonce, absl::string_view bound,
                                         absl::string_view sealed) {
  if (sealed.size() < kTagBytes) return absl::DataLossError("is too short for what was encrypted");
  const auto iv = NonceOf(nonce);
  EVP_CIPHER_CTX* const evp = context_->evp;
  const absl::string_view body = sealed.substr(0, sealed.size() - kTagBytes);
  std::string tag(sealed.substr(body.size()));
  std::string plain(body.size(), '\0');
  auto* const out = reinterpret_cast<unsigned char*>(plain.data());
  int size = 0;
  int rest = 0;
  const bool done =
      EVP_DecryptInit_ex(evp, EVP_aes_256_gcm(), nullptr, context_->key.data(), iv.data()) == 1 &&
      EVP_DecryptUpdate(evp, nullptr, &size, Bytes(bound), static_cast<int>(bound.size())) == 1 &&
      EVP_DecryptUpdate(evp, out, &size, Bytes(body), static_cast<int>(body.size())) == 1 &&
      EVP_CIPHER_CTX_ctrl(evp, EVP_CTRL_GCM_SET_TAG, static_cast<int>(kTagBytes), tag.data()) ==
          1 &&
      EVP_DecryptFinal_ex(evp, out + size, &rest) == 1;
  if (!done) return absl::DataLossError("was altered, or encrypted with another key");
  return plain;
}

absl::StatusOr<StoreKey> StoreKey::Read(const std::string& path) {
  constexpr size_t kLimit = 1024;
  ASSIGN_OR_RETURN(std::string text, ReadFile(path, kLimit));
  if (text.size() != kKeyBytes) {
    const absl::string_view digits = absl::StripAsciiWhitespace(text);
    bool good = digits.size() == 2 * kKeyBytes;
    for (const char c : digits) good = good && absl::ascii_isxdigit(c);
    if (!good) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, " is no key: it needs 32 bytes, or 64 hexadecimal digits (openssl rand -hex 32)"));
    }
    text = absl::HexStringToBytes(digits);
  }
  StoreKey key;
  std::memcpy(key.key_.data(), text.data(), kKeyBytes);
  OPENSSL_cleanse(text.data(), text.size());
  return key;
}

StoreKey::~StoreKey() { OPENSSL_cleanse(key_.data(), key_.size()); }

Cipher StoreKey::For(absl::string_view purpose, absl::string_view id) const {
  EVP_KDF* const hkdf = EVP_KDF_fetch(nullptr, "HKDF", nullptr);
  Must(hkdf != nullptr);
  EVP_KDF_CTX* const context = EVP_KDF_CTX_new(hkdf);
  EVP_KDF_free(hkdf);
  Must(context != nullptr);
  char digest[] = "SHA256";
  std::array<uint8_t, kKeyBytes> master = key_;
  std::string salt(id);
  std::string info(purpose);
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_KEY, master.data(), master.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_SALT, salt.data(), salt.size()),
      OSSL_PARAM_construct_octet_string(OSSL_KDF_PARAM_INFO, info.data(), info.size()),
      OSSL_PARAM_construct_end()};
  std::array<uint8_t, kKeyBytes> derived;
  Must(EVP_KDF_derive(context, derived.data(), derived.size(), parameters) == 1);
  EVP_KDF_CTX_free(context);
  OPENSSL_cleanse(master.data(), master.size());
  Cipher cipher(derived);
  OPENSSL_cleanse(derived.data(), derived.size());
  return cipher;
}

struct Digest::Context {
  EVP_MD_CTX* evp = nullptr;
};

Digest::Digest() : context_(new Context) {
  context_->evp = EVP_MD_CTX_new();
  Must(context_->evp != nullptr && EVP_DigestInit_ex(context_->evp, EVP_sha256(), nullptr) == 1);
}
Digest::~Digest() {
  if (context_ != nullptr) EVP_MD_CTX_free(context_->evp);
}
Digest::Digest(Digest&&) noexcept = default;
Digest& Digest::operator=(Digest&& other) noexcept {
  std::swap(context_, other.context_);
  return *this;
}

void Digest::Add(absl::string_view bytes) {
  Must(EVP_DigestUpdate(context_->evp, bytes.data(), bytes.size()) == 1);
}

std::string Digest::Finish() {
  std::string digest(kDigestBytes, '\0');
  Must(EVP_DigestFinal_ex(context_->evp, reinterpret_cast<unsigned char*>(digest.data()),
                          nullptr) == 1);
  return digest;
}

}  // namespace starling::checkpoint
