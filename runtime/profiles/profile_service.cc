#include "runtime/profiles/profile_service.h"

#include <algorithm>
#include <ctime>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "runtime/agent/rpc_status.h"
#include "runtime/names.h"

namespace starling {
namespace {

constexpr size_t kVisitsShown = 20;

double UnixTime() { return static_cast<double>(std::time(nullptr)); }

void Fill(const ProfileKept& kept, v1::ProfileSummary& summary) {
  summary.set_subject(kept.subject);
  summary.set_consent(kept.consent);
  summary.set_hours(kept.hours);
  summary.set_visits(kept.visits);
  summary.set_calendar_entries(kept.calendar_entries);
  summary.set_last_local_s(kept.last_local_s);
}

absl::Status List(ProfileKeeper& keeper, v1::ListProfilesResponse& response) {
  ASSIGN_OR_RETURN(const std::vector<ProfileKept> all, keeper.List());
  for (const ProfileKept& kept : all) Fill(kept, *response.add_profiles());
  return absl::OkStatus();
}

absl::Status Show(ProfileKeeper& keeper, const std::string& name,
                  v1::ShowProfileResponse& response) {
  using predictor::WeekProfile;
  ASSIGN_OR_RETURN(const std::string subject, ProfileKeeper::SubjectOf(name));
  ASSIGN_OR_RETURN(const ProfileDetails details, keeper.Show(subject, LocalTime(UnixTime())));
  Fill(details.kept, *response.mutable_profile());
  for (int slot = 0; slot < WeekProfile::kSlots; ++slot) {
    if (details.week.seen(slot) <= 0) continue;
    v1::ProfileHour& hour = *response.add_hours();
    hour.set_weekday(static_cast<uint32_t>(slot / 24));
    hour.set_hour(static_cast<uint32_t>(slot % 24));
    hour.set_seen(details.week.seen(slot));
    hour.set_active(details.week.active(slot));
    // 1970-01-05 was a Monday.
    hour.set_probability(details.week.Probability(4 * 86400 + int64_t{slot} * 3600));
  }
  for (const ProfileDetails::Component& component : details.components) {
    v1::ProfileComponent& shown = *response.add_components();
    shown.set_name(component.name);
    shown.set_seen_hours(component.seen_hours);
    shown.set_usual_now(component.usual);
  }
  const size_t visits = details.visits.size();
  for (size_t i = visits - std::min(visits, kVisitsShown); i < visits; ++i) {
    v1::ProfileVisit& visit = *response.add_visits();
    visit.set_component(details.visits[i].component);
    visit.set_connected_local_s(details.visits[i].connected_s);
    visit.set_disconnected_local_s(details.visits[i].disconnected_s);
  }
  response.set_exceptional_today(details.exceptional);
  return absl::OkStatus();
}

absl::Status Export(ProfileKeeper& keeper, const std::string& name, std::string* json) {
  ASSIGN_OR_RETURN(const std::string subject, ProfileKeeper::SubjectOf(name));
  ASSIGN_OR_RETURN(*json, keeper.Export(subject));
  return absl::OkStatus();
}

absl::Status Delete(ProfileKeeper& keeper, const std::string& name) {
  ASSIGN_OR_RETURN(const std::string subject, ProfileKeeper::SubjectOf(name));
  return keeper.Delete(subject);
}

absl::Status SetCalendar(ProfileKeeper& keeper, const v1::SetProfileCalendarRequest& request,
                         v1::SetProfileCalendarResponse& response) {
  RETURN_IF_ERROR(CheckProfileUser(request.user()));
  if (request.icalendar().size() > ProfileService::kMostCalendar) {
    return absl::InvalidArgumentError(absl::StrCat("a calendar of ", request.icalendar().size(),
                                                   " bytes; ", ProfileService::kMostCalendar,
                                                   " are the most: leave old events out"));
  }
  int64_t utc_offset_s = 0;
  (void)LocalTime(UnixTime(), &utc_offset_s);
  ASSIGN_OR_RETURN(const int64_t entries,
                   keeper.SetCalendar(request.user(), request.icalendar(), utc_offset_s));
  response.set_entries(entries);
  return absl::OkStatus();
}

}  // namespace

grpc::Status ProfileService::List(grpc::ServerContext*, const v1::ListProfilesRequest*,
                                  v1::ListProfilesResponse* response) {
  if (!keeper_.ok()) return ToGrpc(keeper_.status());
  response->set_host(host_);
  response->set_keep_days(static_cast<uint32_t>(keep_days_));
  return ToGrpc(starling::List(**keeper_, *response));
}

grpc::Status ProfileService::Show(grpc::ServerContext*, const v1::ShowProfileRequest* request,
                                  v1::ShowProfileResponse* response) {
  if (!keeper_.ok()) return ToGrpc(keeper_.status());
  return ToGrpc(starling::Show(**keeper_, request->subject(), *response));
}

grpc::Status ProfileService::Export(grpc::ServerContext*, const v1::ExportProfileRequest* request,
                                    v1::ExportProfileResponse* response) {
  if (!keeper_.ok()) return ToGrpc(keeper_.status());
  return ToGrpc(starling::Export(**keeper_, request->subject(), response->mutable_json()));
}

grpc::Status ProfileService::Delete(grpc::ServerContext*, const v1::DeleteProfileRequest* request,
                                    v1::DeleteProfileResponse*) {
  if (!keeper_.ok()) return ToGrpc(keeper_.status());
  return ToGrpc(starling::Delete(**keeper_, request->subject()));
}

grpc::Status ProfileService::SetConsent(grpc::ServerContext*,
                                        const v1::SetProfileConsentRequest* request,
                                        v1::SetProfileConsentResponse*) {
  if (!keeper_.ok()) return ToGrpc(keeper_.status());
  const absl::Status named = CheckProfileUser(request->user());
  if (!named.ok()) return ToGrpc(named);
  return ToGrpc((*keeper_)->SetConsent(request->user(), request->consent()));
}

grpc::Status ProfileService::SetCalendar(grpc::ServerContext*,
                                         const v1::SetProfileCalendarRequest* request,
                                         v1::SetProfileCalendarResponse* response) {
  if (!keeper_.ok()) return ToGrpc(keeper_.status());
  return ToGrpc(starling::SetCalendar(**keeper_, *request, *response));
}

}  // namespace starling
