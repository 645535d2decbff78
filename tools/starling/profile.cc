#include <fcntl.h>

#include <string>

#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/status.h"
#include "tools/starling/ask.h"
#include "tools/starling/commands.h"
#include "tools/starling/render_profile.h"

namespace starling::cli {
namespace {

// What the agent takes at most, and a little, so that it says itself that it is too much.
constexpr size_t kMostCalendar = (3 << 20) + 4096;

// For its owner alone: it says when somebody is there.
absl::Status WritePrivate(const std::string& path, const std::string& text) {
  ASSIGN_OR_RETURN(const UniqueFd fd, OpenFile(path, O_WRONLY | O_CREAT | O_TRUNC, 0600));
  return WriteAll(fd.get(), text.data(), text.size());
}

ExitCode List(Session& session, Format format) {
  v1::ListProfilesResponse response;
  ExitCode code;
  if (!Ask(session, session.agent.profiles(), &v1::Profiles::Stub::List, v1::ListProfilesRequest(),
           &response, &code)) {
    return code;
  }
  Show(session, format, ProfilesText(response), ProfilesJson(response));
  return ExitCode::kOk;
}

ExitCode Export(Session& session, const ProfileOptions& options) {
  v1::ExportProfileRequest request;
  request.set_subject(options.name);
  v1::ExportProfileResponse response;
  ExitCode code;
  if (!Ask(session, session.agent.profiles(), &v1::Profiles::Stub::Export, request, &response,
           &code))
    return code;
  if (options.out.empty()) {
    session.io.out << response.json() << std::flush;
    return ExitCode::kOk;
  }
  const absl::Status written = WritePrivate(options.out, response.json());
  if (!written.ok()) return Fail(session.io, ExitCode::kFailed, written.message());
  return ExitCode::kOk;
}

ExitCode Calendar(Session& session, const ProfileOptions& options) {
  absl::StatusOr<std::string> file = ReadFile(options.file, kMostCalendar);
  if (!file.ok()) return Fail(session.io, ExitCode::kUsage, file.status().message());
  v1::SetProfileCalendarRequest request;
  request.set_user(options.name);
  request.set_icalendar(*std::move(file));
  v1::SetProfileCalendarResponse response;
  ExitCode code;
  if (!Ask(session, session.agent.profiles(), &v1::Profiles::Stub::SetCalendar, request, &response,
           &code))
    return code;
  Show(session, options.format, absl::StrCat(response.entries(), " entries\n"),
       absl::StrCat("{\"schema\":1,\"entries\":", response.entries(), "}"));
  return ExitCode::kOk;
}

}  // namespace

ExitCode Profile(Session& session, const ProfileOptions& options) {
  ExitCode code = ExitCode::kOk;
  if (options.what == "list") return List(session, options.format);
  if (options.what == "export") return Export(session, options);
  if (options.what == "calendar") return Calendar(session, options);
  if (options.what == "delete") {
    v1::DeleteProfileRequest request;
    request.set_subject(options.name);
    v1::DeleteProfileResponse response;
    Ask(session, session.agent.profiles(), &v1::Profiles::Stub::Delete, request, &response, &code);
    return code;
  }
  if (options.what == "consent") {
    v1::SetProfileConsentRequest request;
    request.set_user(options.name);
    request.set_consent(options.consent);
    v1::SetProfileConsentResponse response;
    Ask(session, session.agent.profiles(), &v1::Profiles::Stub::SetConsent, request, &response,
        &code);
    return code;
  }
  v1::ShowProfileRequest request;
  request.set_subject(options.name);
  v1::ShowProfileResponse response;
  if (!Ask(session, session.agent.profiles(), &v1::Profiles::Stub::Show, request, &response, &code))
    return code;
  Show(session, options.format, ProfileText(response), ProfileJson(response));
  return ExitCode::kOk;
}

}  // namespace starling::cli
