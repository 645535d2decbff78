#include "transport/gcm.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

#if STARLING_HAS_IPSEC_MB
#include <intel-ipsec-mb.h>
#endif

namespace starling::transport {
namespace {

const uint8_t* Bytes(std::span<const std::byte> from) {
  return reinterpret_cast<const uint8_t*>(from.data());
}

absl::Status Altered() { return absl::DataLossError("it was altered, or sealed otherwise"); }

class OpenSslGcm : public Gcm {
 public:
  static absl::StatusOr<std::unique_ptr<Gcm>> Create(const CipherKey& key) {
    std::unique_ptr<OpenSslGcm> gcm(new OpenSslGcm());
    if (!gcm->sealing_ || !gcm->opening_ ||
        EVP_EncryptInit_ex(gcm->sealing_.get(), EVP_aes_256_gcm(), nullptr, key.data(), nullptr) <=
            0 ||
        EVP_DecryptInit_ex(gcm->opening_.get(), EVP_aes_256_gcm(), nullptr, key.data(), nullptr) <=
            0) {
      return Failed("take a key");
    }
    return gcm;
  }

  absl::Status Seal(const CipherNonce& nonce, std::span<const std::byte> in,
                    std::span<std::byte> out, CipherTag& tag) override {
    EVP_CIPHER_CTX* const context = sealing_.get();
    int done = 0;
    int end = 0;
    auto* const to = reinterpret_cast<uint8_t*>(out.data());
    if (EVP_EncryptInit_ex(context, nullptr, nullptr, nullptr, nonce.data()) <= 0 ||
        EVP_EncryptUpdate(context, to, &done, Bytes(in), static_cast<int>(in.size())) <= 0 ||
        EVP_EncryptFinal_ex(context, to + done, &end) <= 0 ||
        EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_GET_TAG, tag.size(), tag.data()) <= 0) {
      return Failed("encrypt");
    }
    return absl::OkStatus();
  }

  absl::Status Open(const CipherNonce& nonce, std::span<const std::byte> in,
                    std::span<const std::span<std::byte>> out, const CipherTag& tag) override {
    EVP_CIPHER_CTX* const context = opening_.get();
    bool ok = EVP_DecryptInit_ex(context, nullptr, nullptr, nullptr, nonce.data()) > 0;
    for (const std::span<std::byte> piece : out) {
      int done = 0;
      ok = ok && EVP_DecryptUpdate(context, reinterpret_cast<uint8_t*>(piece.data()), &done,
                                   Bytes(in), static_cast<int>(piece.size())) > 0;
      in = in.subspan(piece.size());
    }
    CipherTag expected = tag;
    if (!ok ||
        EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_GCM_SET_TAG, expected.size(), expected.data()) <= 0) {
      return Failed("decrypt");
    }
    uint8_t nothing[16];
    int end = 0;
    return EVP_DecryptFinal_ex(context, nothing, &end) > 0 ? absl::OkStatus() : Altered();
  }

 private:
  struct Free {
    void operator()(EVP_CIPHER_CTX* context) const { EVP_CIPHER_CTX_free(context); }
  };
  OpenSslGcm() : sealing_(EVP_CIPHER_CTX_new()), opening_(EVP_CIPHER_CTX_new()) {}
  static absl::Status Failed(absl::string_view what) {
    return absl::InternalError(absl::StrCat("OpenSSL cannot ", what));
  }

  const std::unique_ptr<EVP_CIPHER_CTX, Free> sealing_;
  const std::unique_ptr<EVP_CIPHER_CTX, Free> opening_;
};

#if STARLING_HAS_IPSEC_MB

// The library's functions for this processor; nullptr where OpenSSL's are as good.
IMB_MGR* VectorAes() {
  static IMB_MGR* const manager = []() -> IMB_MGR* {
    IMB_MGR* const made = alloc_mb_mgr(0);
    if (made == nullptr) return nullptr;
    IMB_ARCH arch = IMB_ARCH_NONE;
    init_mb_mgr_auto(made, &arch);
    constexpr uint64_t kNeeded = IMB_FEATURE_AVX512_SKX | IMB_FEATURE_VAES | IMB_FEATURE_VPCLMULQDQ;
    if (imb_get_errno(made) == 0 && arch == IMB_ARCH_AVX512 &&
        (made->features & kNeeded) == kNeeded && (made->features & IMB_FEATURE_SELF_TEST_PASS)) {
      return made;
    }
    free_mb_mgr(made);
    return nullptr;
  }();
  return manager;
}

class IpsecMbGcm : public Gcm {
 public:
  IpsecMbGcm(IMB_MGR* manager, const CipherKey& key) : manager_(manager) {
    IMB_AES256_GCM_PRE(manager_, key.data(), &key_);
  }
  ~IpsecMbGcm() override { OPENSSL_cleanse(&key_, sizeof(key_)); }

  absl::Status Seal(const CipherNonce& nonce, std::span<const std::byte> in,
                    std::span<std::byte> out, CipherTag& tag) override {
    gcm_context_data context;
    IMB_AES256_GCM_ENC(manager_, &key_, &context, reinterpret_cast<uint8_t*>(out.data()), Bytes(in),
                       in.size(), nonce.data(), nullptr, 0, tag.data(), tag.size());
    return absl::OkStatus();
  }

  absl::Status Open(const CipherNonce& nonce, std::span<const std::byte> in,
                    std::span<const std::span<std::byte>> out, const CipherTag& tag) override {
    gcm_context_data context;
    IMB_AES256_GCM_INIT(manager_, &key_, &context, nonce.data(), nullptr, 0);
    for (const std::span<std::byte> piece : out) {
      IMB_AES256_GCM_DEC_UPDATE(manager_, &key_, &context, reinterpret_cast<uint8_t*>(piece.data()),
                                Bytes(in), piece.size());
      in = in.subspan(piece.size());
    }
    CipherTag computed;
    IMB_AES256_GCM_DEC_FINALIZE(manager_, &key_, &context, computed.data(), computed.size());
    return CRYPTO_memcmp(computed.data(), tag.data(), tag.size()) == 0 ? absl::OkStatus()
                                                                       : Altered();
  }

 private:
  IMB_MGR* const manager_;
  gcm_key_data key_;
};

#endif

}  // namespace

absl::StatusOr<std::unique_ptr<Gcm>> Gcm::Create(const CipherKey& key, Engine engine) {
#if STARLING_HAS_IPSEC_MB
  if (IMB_MGR* const manager = VectorAes(); manager != nullptr && engine != Engine::kOpenSsl)
    return std::make_unique<IpsecMbGcm>(manager, key);
#endif
  if (engine == Engine::kIpsecMb) {
    return absl::UnimplementedError(
        "ipsec-mb is not in this build, or this processor has no AES over whole vectors");
  }
  return OpenSslGcm::Create(key);
}

}  // namespace starling::transport
