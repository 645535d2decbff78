#include "runtime/security/certificates.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <openssl/bio.h>
#include <openssl/bn.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>
#include <unistd.h>

#include <ctime>
#include <memory>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "runtime/names.h"

namespace starling::security {
namespace {

// Clocks of a pool differ a little: a certificate is good from a while before it was made.
constexpr int64_t kBackdatedSeconds = 3600;
constexpr int64_t kDaySeconds = 86400;
constexpr size_t kMaxPem = 1 << 20;
constexpr char kMake[] = "make one with `starling cert host`";

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* handle) const {
    Free(handle);
  }
};
using Key = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;
using Certificate = std::unique_ptr<X509, Freer<X509_free>>;
using Memory = std::unique_ptr<BIO, Freer<BIO_free_all>>;
using Extension = std::unique_ptr<X509_EXTENSION, Freer<X509_EXTENSION_free>>;
using Number = std::unique_ptr<BIGNUM, Freer<BN_free>>;
using Store = std::unique_ptr<X509_STORE, Freer<X509_STORE_free>>;
using StoreContext = std::unique_ptr<X509_STORE_CTX, Freer<X509_STORE_CTX_free>>;

absl::Status Failed(absl::string_view what) {
  const unsigned long error = ERR_get_error();
  ERR_clear_error();
  char text[256] = "unknown error";
  if (error != 0) ERR_error_string_n(error, text, sizeof(text));
  return absl::InternalError(absl::StrCat(what, ": ", text));
}

std::string ToPem(const X509* certificate) {
  const Memory out(BIO_new(BIO_s_mem()));
  PEM_write_bio_X509(out.get(), certificate);
  char* data = nullptr;
  const long size = BIO_get_mem_data(out.get(), &data);
  return std::string(data, static_cast<size_t>(size));
}

std::string ToPem(const EVP_PKEY* key) {
  const Memory out(BIO_new(BIO_s_mem()));
  PEM_write_bio_PKCS8PrivateKey(out.get(), key, nullptr, nullptr, 0, nullptr, nullptr);
  char* data = nullptr;
  const long size = BIO_get_mem_data(out.get(), &data);
  return std::string(data, static_cast<size_t>(size));
}

Certificate CertificateFrom(absl::string_view pem) {
  const Memory in(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  return Certificate(PEM_read_bio_X509(in.get(), nullptr, nullptr, nullptr));
}

// A key with a passphrase is not asked for it: an agent starts without a person.
int NoPassphrase(char*, int, int, void*) { return -1; }

Key KeyFrom(absl::string_view pem) {
  const Memory in(BIO_new_mem_buf(pem.data(), static_cast<int>(pem.size())));
  return Key(PEM_read_bio_PrivateKey(in.get(), nullptr, NoPassphrase, nullptr));
}

std::string Date(const ASN1_TIME* time) {
  std::tm parts = {};
  char text[16] = "?";
  if (ASN1_TIME_to_tm(time, &parts) == 1) std::strftime(text, sizeof(text), "%Y-%m-%d", &parts);
  return text;
}

std::string CommonName(const X509* certificate) {
  char text[256] = "";
  X509_NAME_get_text_by_NID(X509_get_subject_name(certificate), NID_commonName, text, sizeof(text));
  return text;
}

absl::Status AddExtension(X509* certificate, X509* issuer, int kind, const std::string& value) {
  X509V3_CTX context;
  X509V3_set_ctx_nodb(&context);
  X509V3_set_ctx(&context, issuer, certificate, nullptr, nullptr, 0);
  const Extension extension(X509V3_EXT_conf_nid(nullptr, &context, kind, value.c_str()));
  if (!extension || X509_add_ext(certificate, extension.get(), -1) != 1)
    return Failed(absl::StrCat("add ", OBJ_nid2ln(kind), " to a certificate"));
  return absl::OkStatus();
}

// Version, serial number, times, subject, public key: all but the issuer and the extensions.
absl::StatusOr<Certificate> Draft(const std::string& name, int days, EVP_PKEY* key) {
  if (days < 1 || days > kMaxDays) {
    return absl::InvalidArgumentError(
        absl::StrCat(days, " days are not a validity; allowed is 1 to ", kMaxDays));
  }
  Certificate certificate(X509_new());
  unsigned char random[16];
  if (!certificate || RAND_bytes(random, sizeof(random)) != 1) return Failed("make a certificate");
  random[0] &= 0x7f;  // a serial number is positive
  random[0] |= 0x40;
  const Number serial(BN_bin2bn(random, sizeof(random), nullptr));
  X509_NAME* subject = X509_get_subject_name(certificate.get());
  const auto* text = reinterpret_cast<const unsigned char*>(name.data());
  const bool made =
      X509_set_version(certificate.get(), X509_VERSION_3) == 1 && serial != nullptr &&
      BN_to_ASN1_INTEGER(serial.get(), X509_get_serialNumber(certificate.get())) != nullptr &&
      X509_gmtime_adj(X509_getm_notBefore(certificate.get()), -kBackdatedSeconds) != nullptr &&
      X509_time_adj_ex(X509_getm_notAfter(certificate.get()), days, 0, nullptr) != nullptr &&
      X509_NAME_add_entry_by_txt(subject, "CN", MBSTRING_UTF8, text, static_cast<int>(name.size()),
                                 -1, 0) == 1 &&
      X509_set_pubkey(certificate.get(), key) == 1;
  if (!made) return Failed("make a certificate");
  return certificate;
}

absl::Status WriteNew(const std::string& path, const std::string& content, unsigned mode) {
  absl::StatusOr<UniqueFd> fd = OpenFile(path, O_WRONLY | O_CREAT | O_EXCL, mode);
  if (absl::IsAlreadyExists(fd.status())) {
    return absl::AlreadyExistsError(
        absl::StrCat(path,
                     " is there already and is not written over: choose another folder, or "
                     "move it away"));
  }
  RETURN_IF_ERROR(fd.status());
  absl::Status written = WriteAll(fd->get(), content.data(), content.size());
  if (written.ok() && ::fsync(fd->get()) != 0) written = ErrnoStatus("fsync");
  if (!written.ok()) ::unlink(path.c_str());
  return Annotate(written, path);
}

absl::StatusOr<Made> WriteBoth(const std::string& certificate_path, const std::string& key_path,
                               const X509* certificate, const EVP_PKEY* key) {
  // The key first: a certificate alone would be of no use, and block the next try.
  RETURN_IF_ERROR(WriteNew(key_path, ToPem(key), 0600));
  if (const absl::Status status = WriteNew(certificate_path, ToPem(certificate), 0644);
      !status.ok()) {
    ::unlink(key_path.c_str());
    return status;
  }
  return Made{certificate_path, key_path, Date(X509_get0_notAfter(certificate))};
}

absl::StatusOr<std::string> ReadPem(const std::string& path) {
  absl::StatusOr<std::string> text = ReadFile(path, kMaxPem);
  if (absl::IsNotFound(text.status()))
    return absl::NotFoundError(absl::StrCat(path, " is not there: ", kMake));
  return text;
}

}  // namespace

absl::StatusOr<Made> MakeAuthority(const std::string& folder, int days) {
  const Key key(EVP_EC_gen("P-256"));
  if (!key) return Failed("make a key");
  ASSIGN_OR_RETURN(const Certificate certificate, Draft("Starling authority", days, key.get()));
  X509* raw = certificate.get();
  if (X509_set_issuer_name(raw, X509_get_subject_name(raw)) != 1) return Failed("name the issuer");
  RETURN_IF_ERROR(AddExtension(raw, raw, NID_basic_constraints, "critical,CA:TRUE,pathlen:0"));
  RETURN_IF_ERROR(AddExtension(raw, raw, NID_key_usage, "critical,keyCertSign,cRLSign"));
  RETURN_IF_ERROR(AddExtension(raw, raw, NID_subject_key_identifier, "hash"));
  if (X509_sign(raw, key.get(), EVP_sha256()) == 0) return Failed("sign a certificate");
  RETURN_IF_ERROR(MakeDirectories(folder, 0700));
  return WriteBoth(absl::StrCat(folder, "/", kAuthorityCertificate),
                   absl::StrCat(folder, "/", kAuthorityKey), raw, key.get());
}

absl::StatusOr<Made> MakeHostCertificate(const HostRequest& request) {
  RETURN_IF_ERROR(CheckHostName(request.host));
  std::string names = absl::StrCat("DNS:", request.host);
  for (const std::string& address : request.addresses) {
    unsigned char bytes[sizeof(in6_addr)];
    if (::inet_pton(AF_INET, address.c_str(), bytes) != 1 &&
        ::inet_pton(AF_INET6, address.c_str(), bytes) != 1) {
      return absl::InvalidArgumentError(
          absl::StrCat("'", address, "' is not an address; allowed is IPv4 or IPv6"));
    }
    absl::StrAppend(&names, ",IP:", address);
  }
  const std::string authority_path = absl::StrCat(request.authority, "/", kAuthorityCertificate);
  const std::string key_path = absl::StrCat(request.authority, "/", kAuthorityKey);
  const absl::StatusOr<std::string> authority_pem = ReadFile(authority_path, kMaxPem);
  const absl::StatusOr<std::string> key_pem = ReadFile(key_path, kMaxPem);
  if (!authority_pem.ok() || !key_pem.ok()) {
    const absl::Status cause = authority_pem.ok() ? key_pem.status() : authority_pem.status();
    return absl::Status(cause.code(),
                        absl::StrCat(cause.message(),
                                     ": make an authority with `starling cert authority`, or say "
                                     "with --authority where it is"));
  }
  const Certificate authority = CertificateFrom(*authority_pem);
  const Key authority_key = KeyFrom(*key_pem);
  if (!authority || !authority_key ||
      X509_check_private_key(authority.get(), authority_key.get()) != 1) {
    ERR_clear_error();
    return absl::InvalidArgumentError(
        absl::StrCat(authority_path, " and ", key_path, " are not a certificate and its key"));
  }
  const Key key(EVP_EC_gen("P-256"));
  if (!key) return Failed("make a key");
  ASSIGN_OR_RETURN(const Certificate certificate, Draft(request.host, request.days, key.get()));
  X509* raw = certificate.get();
  if (ASN1_TIME_compare(X509_get0_notAfter(authority.get()), X509_get0_notAfter(raw)) < 0) {
    return absl::FailedPreconditionError(
        absl::StrCat("the authority ends on ", Date(X509_get0_notAfter(authority.get())),
                     ", before a certificate of ", request.days,
                     " days would: choose fewer --days, or make a new authority"));
  }
  if (X509_set_issuer_name(raw, X509_get_subject_name(authority.get())) != 1)
    return Failed("name the issuer");
  RETURN_IF_ERROR(AddExtension(raw, authority.get(), NID_basic_constraints, "critical,CA:FALSE"));
  RETURN_IF_ERROR(AddExtension(raw, authority.get(), NID_key_usage, "critical,digitalSignature"));
  RETURN_IF_ERROR(AddExtension(raw, authority.get(), NID_ext_key_usage, "serverAuth,clientAuth"));
  RETURN_IF_ERROR(AddExtension(raw, authority.get(), NID_subject_alt_name, names));
  RETURN_IF_ERROR(AddExtension(raw, authority.get(), NID_subject_key_identifier, "hash"));
  RETURN_IF_ERROR(AddExtension(raw, authority.get(), NID_authority_key_identifier, "keyid:always"));
  if (X509_sign(raw, authority_key.get(), EVP_sha256()) == 0) return Failed("sign a certificate");
  RETURN_IF_ERROR(MakeDirectories(request.folder, 0700));
  return WriteBoth(absl::StrCat(request.folder, "/", request.host, ".crt"),
                   absl::StrCat(request.folder, "/", request.host, ".key"), raw, key.get());
}

absl::StatusOr<Credentials> LoadCredentials(const CredentialFiles& files, absl::string_view host) {
  Credentials credentials;
  ASSIGN_OR_RETURN(credentials.authority, ReadPem(files.authority));
  ASSIGN_OR_RETURN(credentials.certificate, ReadPem(files.certificate));
  ASSIGN_OR_RETURN(credentials.key, ReadPem(files.key));
  struct stat info;
  if (::stat(files.key.c_str(), &info) != 0) return ErrnoStatus(files.key);
  if ((info.st_mode & 0077) != 0) {
    return absl::PermissionDeniedError(
        absl::StrCat(files.key,
                     " can be read by others than its owner: chmod 600 it, and if others "
                     "were on this host meanwhile, make a new one"));
  }
  const Certificate authority = CertificateFrom(credentials.authority);
  if (!authority)
    return absl::InvalidArgumentError(absl::StrCat(files.authority, " has no certificate in PEM"));
  const Certificate certificate = CertificateFrom(credentials.certificate);
  if (!certificate) {
    return absl::InvalidArgumentError(
        absl::StrCat(files.certificate, " has no certificate in PEM"));
  }
  const Key key = KeyFrom(credentials.key);
  ERR_clear_error();
  if (!key) {
    return absl::InvalidArgumentError(
        absl::StrCat(files.key, " has no private key in PEM that opens without a passphrase"));
  }
  if (X509_check_private_key(certificate.get(), key.get()) != 1) {
    ERR_clear_error();
    return absl::InvalidArgumentError(
        absl::StrCat(files.key, " is not the key of ", files.certificate));
  }
  const Store store(X509_STORE_new());
  const StoreContext context(X509_STORE_CTX_new());
  if (!store || !context || X509_STORE_add_cert(store.get(), authority.get()) != 1 ||
      X509_STORE_CTX_init(context.get(), store.get(), certificate.get(), nullptr) != 1) {
    return Failed("check a certificate");
  }
  if (X509_verify_cert(context.get()) != 1) {
    const int error = X509_STORE_CTX_get_error(context.get());
    ERR_clear_error();
    return absl::FailedPreconditionError(
        absl::StrCat(files.certificate, " is not good under ", files.authority, ": ",
                     X509_verify_cert_error_string(error), " (valid from ",
                     Date(X509_get0_notBefore(certificate.get())), " to ",
                     Date(X509_get0_notAfter(certificate.get())), "): ", kMake));
  }
  const std::string name = CommonName(certificate.get());
  const bool named = X509_check_host(certificate.get(), name.data(), name.size(),
                                     X509_CHECK_FLAG_NEVER_CHECK_SUBJECT, nullptr) == 1;
  if (name != host || !named) {
    return absl::InvalidArgumentError(absl::StrCat(
        files.certificate, " is the certificate of host '", name, "', and this is host '", host,
        "' (its name must be both the common name and "
        "an alternative name): ",
        kMake, ", or mend `host`"));
  }
  int days = 0;
  int seconds = 0;
  ASN1_TIME_diff(&days, &seconds, nullptr, X509_get0_notAfter(certificate.get()));
  credentials.days_left = days;
  credentials.ends = Date(X509_get0_notAfter(certificate.get()));
  return credentials;
}

}  // namespace starling::security
