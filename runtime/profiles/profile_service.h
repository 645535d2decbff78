#pragma once

#include <string>

#include "runtime/profiles/profile_keeper.h"
#include "runtime/proto/profile.grpc.pb.h"

namespace starling {

// `starling profile`, over the local socket. Thread-safe.
class ProfileService final : public v1::Profiles::Service {
 public:
  // A calendar's size at most, in bytes: gRPC takes messages of 4 MiB.
  static constexpr size_t kMostCalendar = 3 << 20;

  // `keeper` outlives it, or is the reason why there is none.
  ProfileService(std::string host, int keep_days, absl::StatusOr<ProfileKeeper*> keeper)
      : host_(std::move(host)), keep_days_(keep_days), keeper_(std::move(keeper)) {}
  grpc::Status List(grpc::ServerContext*, const v1::ListProfilesRequest*,
                    v1::ListProfilesResponse*) override;
  grpc::Status Show(grpc::ServerContext*, const v1::ShowProfileRequest*,
                    v1::ShowProfileResponse*) override;
  grpc::Status Export(grpc::ServerContext*, const v1::ExportProfileRequest*,
                      v1::ExportProfileResponse*) override;
  grpc::Status Delete(grpc::ServerContext*, const v1::DeleteProfileRequest*,
                      v1::DeleteProfileResponse*) override;
  grpc::Status SetConsent(grpc::ServerContext*, const v1::SetProfileConsentRequest*,
                          v1::SetProfileConsentResponse*) override;
  grpc::Status SetCalendar(grpc::ServerContext*, const v1::SetProfileCalendarRequest*,
                           v1::SetProfileCalendarResponse*) override;

 private:
  const std::string host_;
  const int keep_days_;
  const absl::StatusOr<ProfileKeeper*> keeper_;
};

}  // namespace starling
