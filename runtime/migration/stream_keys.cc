#include "runtime/migration/stream_keys.h"

#include <openssl/core_names.h>
#include <openssl/crypto.h>
#include <openssl/kdf.h>
#include <openssl/params.h>

#include <cstring>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/random.h"
#include "base/status.h"

namespace starling::migration {
namespace {

constexpr char kLabel[] = "starling page stream v1";             // with its NUL
constexpr char kAgainLabel[] = "starling page stream v1 again";  // likewise

struct FreeKdf {
  void operator()(EVP_KDF* kdf) const { EVP_KDF_free(kdf); }
  void operator()(EVP_KDF_CTX* context) const { EVP_KDF_CTX_free(context); }
};

OSSL_PARAM Octets(const char* name, absl::string_view bytes) {
  return OSSL_PARAM_construct_octet_string(name, const_cast<char*>(bytes.data()), bytes.size());
}

}  // namespace

absl::StatusOr<std::string> NewKeyShare() { return RandomBytes(kKeyShareBytes); }

absl::StatusOr<std::string> HkdfSha256(absl::string_view salt, absl::string_view input,
                                       absl::string_view info, size_t bytes) {
  const std::unique_ptr<EVP_KDF, FreeKdf> kdf(EVP_KDF_fetch(nullptr, "HKDF", nullptr));
  const std::unique_ptr<EVP_KDF_CTX, FreeKdf> context(kdf ? EVP_KDF_CTX_new(kdf.get()) : nullptr);
  char digest[] = "SHA256";
  const OSSL_PARAM parameters[] = {
      OSSL_PARAM_construct_utf8_string(OSSL_KDF_PARAM_DIGEST, digest, 0),
      Octets(OSSL_KDF_PARAM_SALT, salt), Octets(OSSL_KDF_PARAM_KEY, input),
      Octets(OSSL_KDF_PARAM_INFO, info), OSSL_PARAM_construct_end()};
  std::string key(bytes, '\0');
  if (!context || EVP_KDF_derive(context.get(), reinterpret_cast<unsigned char*>(key.data()),
                                 key.size(), parameters) != 1) {
    return absl::InternalError("OpenSSL does not derive keys by HKDF-SHA256");
  }
  return key;
}

absl::StatusOr<transport::CipherKey> DeriveStreamKey(absl::string_view source_share,
                                                     absl::string_view target_share,
                                                     absl::string_view migration_id,
                                                     uint32_t connection,
                                                     StreamDirection direction) {
  if (source_share.size() != kKeyShareBytes || target_share.size() != kKeyShareBytes) {
    return absl::InvalidArgumentError(absl::StrCat("key shares of ", source_share.size(), " and ",
                                                   target_share.size(), " bytes; each has ",
                                                   kKeyShareBytes));
  }
  std::string info(kLabel, sizeof(kLabel));
  info.push_back(static_cast<char>(direction));
  for (int shift = 0; shift < 32; shift += 8)
    info.push_back(static_cast<char>(connection >> shift & 0xff));
  std::string input = absl::StrCat(source_share, target_share);
  transport::CipherKey key;
  absl::StatusOr<std::string> derived = HkdfSha256(migration_id, input, info, key.size());
  OPENSSL_cleanse(input.data(), input.size());
  RETURN_IF_ERROR(derived.status());
  std::memcpy(key.data(), derived->data(), key.size());
  OPENSSL_cleanse(derived->data(), derived->size());
  return key;
}

absl::StatusOr<std::vector<ChannelKeys>> DeriveStreamKeys(absl::string_view source_share,
                                                          absl::string_view target_share,
                                                          absl::string_view migration_id,
                                                          uint32_t connections) {
  std::vector<ChannelKeys> keys(connections);
  for (uint32_t i = 0; i < connections; ++i) {
    ASSIGN_OR_RETURN(keys[i].to_target, DeriveStreamKey(source_share, target_share, migration_id, i,
                                                        StreamDirection::kToTarget));
    ASSIGN_OR_RETURN(keys[i].to_source, DeriveStreamKey(source_share, target_share, migration_id, i,
                                                        StreamDirection::kToSource));
  }
  return keys;
}

absl::StatusOr<ChannelKeys> KeysOfAttempt(const ChannelKeys& first, uint32_t attempt) {
  if (attempt == 0) return first;
  std::string info(kAgainLabel, sizeof(kAgainLabel));
  for (int shift = 0; shift < 32; shift += 8)
    info.push_back(static_cast<char>(attempt >> shift & 0xff));
  ChannelKeys keys;
  const std::pair<const transport::CipherKey*, transport::CipherKey*> directions[] = {
      {&first.to_target, &keys.to_target}, {&first.to_source, &keys.to_source}};
  for (const auto& [from, to] : directions) {
    const absl::string_view input(reinterpret_cast<const char*>(from->data()), from->size());
    ASSIGN_OR_RETURN(std::string derived, HkdfSha256("", input, info, to->size()));
    std::memcpy(to->data(), derived.data(), to->size());
    OPENSSL_cleanse(derived.data(), derived.size());
  }
  return keys;
}

}  // namespace starling::migration
