#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"

// The small authority of a pool of hosts, and the certificates it gives them: ECDSA on P-256, X.509
// version 3. A host is who its certificate's common name says, and the same name is among its
// alternative names, by which the other side checks it.

namespace starling::security {

inline constexpr int kAuthorityDays = 3650;
inline constexpr int kHostDays = 365;
inline constexpr int kMaxDays = 36500;

// Files of the authority in its folder.
inline constexpr char kAuthorityCertificate[] = "authority.crt";
inline constexpr char kAuthorityKey[] = "authority.key";

struct Made {
  std::string certificate;  // path
  std::string key;          // path, mode 0600
  std::string ends;         // "2027-11-21"
};

// Makes a new authority in `folder`, which is made when it is missing. kAlreadyExists when any of
// the files is there: nothing is ever written over.
absl::StatusOr<Made> MakeAuthority(const std::string& folder, int days);

struct HostRequest {
  std::string authority;               // folder of the authority
  std::string folder;                  // for NAME.crt and NAME.key
  std::string host;                    // as its configuration's `host` says
  std::vector<std::string> addresses;  // IPv4 or IPv6
  int days = kHostDays;
};
// kAlreadyExists as above; kFailedPrecondition when the authority ends before the certificate
// would.
absl::StatusOr<Made> MakeHostCertificate(const HostRequest& request);

// A host's own: what it shows, and by whom it knows others. PEM texts.
struct Credentials {
  std::string authority;
  std::string certificate;
  std::string key;
  std::string ends;  // of the certificate: "2027-11-21"
  int days_left = 0;
};

struct CredentialFiles {
  std::string authority;
  std::string certificate;
  std::string key;
};

// Reads and checks them as a peer would, and one thing more: that they are this host's. Errors name
// the file and the way to mend it: kNotFound, kPermissionDenied (a key that others may read),
// kInvalidArgument (not PEM; a key of another certificate; a certificate of another host),
// kFailedPrecondition (not signed by the authority; expired; not valid yet).
absl::StatusOr<Credentials> LoadCredentials(const CredentialFiles& files, absl::string_view host);

}  // namespace starling::security
