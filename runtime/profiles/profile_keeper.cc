#include "runtime/profiles/profile_keeper.h"

#include <algorithm>
#include <condition_variable>
#include <ctime>
#include <optional>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/names.h"

namespace starling {
namespace {

constexpr auto kWriteEvery = std::chrono::seconds(10);
constexpr int64_t kHour_s = 3600, kDay_s = 24 * kHour_s;
// Usual is what was done in this hour more often than not, and at least in two weeks.
constexpr double kUsual = 0.5, kLeastSeen = 1.5;
constexpr char kUser[] = "user:", kComponent[] = "component:";

std::string User(absl::string_view name) { return absl::StrCat(kUser, name); }
std::string Component(absl::string_view name) { return absl::StrCat(kComponent, name); }

absl::Status Unknown(absl::string_view subject) {
  return absl::NotFoundError(absl::StrCat("nothing is kept of ", subject,
                                          " here: `starling profile list` names those of which "
                                          "there is a profile"));
}

}  // namespace

int64_t LocalTime(double time_s, int64_t* utc_offset_s) {
  const auto seconds = static_cast<time_t>(time_s);
  tm local = {};
  localtime_r(&seconds, &local);
  if (utc_offset_s != nullptr) *utc_offset_s = local.tm_gmtoff;
  return static_cast<int64_t>(seconds) + local.tm_gmtoff;
}

absl::StatusOr<std::string> ProfileKeeper::SubjectOf(absl::string_view name) {
  absl::string_view component = name;
  if (absl::ConsumePrefix(&component, kComponent)) {
    RETURN_IF_ERROR(CheckComponentName(component));
    return std::string(name);
  }
  absl::ConsumePrefix(&name, kUser);
  RETURN_IF_ERROR(CheckProfileUser(name));
  return User(name);
}

absl::StatusOr<std::unique_ptr<ProfileKeeper>> ProfileKeeper::Open(const std::string& path,
                                                                   int keep_days) {
  ASSIGN_OR_RETURN(std::unique_ptr<ProfileStore> store, ProfileStore::Open(path));
  std::unique_ptr<ProfileKeeper> keeper(new ProfileKeeper(std::move(store), keep_days));
  ASSIGN_OR_RETURN(const std::vector<std::string> users, keeper->store_->Users());
  for (const std::string& user : users) {
    keeper->consenting_.insert(user);
    ASSIGN_OR_RETURN(const std::vector<std::string> used, keeper->store_->ComponentsOf(User(user)));
    keeper->used_[user] = {used.begin(), used.end()};
  }
  return keeper;
}

ProfileKeeper::ProfileKeeper(std::unique_ptr<ProfileStore> store, int keep_days)
    : keep_days_(keep_days), store_(std::move(store)) {}

ProfileKeeper::~ProfileKeeper() = default;

void ProfileKeeper::Start() {
  thread_ = std::jthread([this](const std::stop_token& stop) {
    std::mutex sleep_mutex;
    std::condition_variable_any sleep;
    std::string complaint;
    while (!stop.stop_requested()) {
      {
        std::unique_lock lock(sleep_mutex);
        sleep.wait_for(lock, stop, kWriteEvery, [] { return false; });
      }
      const absl::Status written = Write();
      if (std::exchange(complaint, written.ToString()) != complaint && !written.ok()) {
        spdlog::warn("profiles are not written: {}", written.ToString());
      }
    }
  });
}

absl::Status ProfileKeeper::Stop() {
  thread_ = {};
  return Write();
}

void ProfileKeeper::Mark(const Key& key, int64_t local_s, bool active) {
  Hour& hour = hours_[key];
  if (hour.told && (hour.active || !active)) return;
  hour.told = true;
  hour.active = active;
  if (lessons_.size() < kMostWaiting) lessons_.push_back({key, local_s, active});
}

void ProfileKeeper::Present(const Key& key, int64_t local_s, bool told, bool input) {
  const auto found = visits_.find(key);
  if (told || input) {
    if (found == visits_.end()) {
      visits_[key] = {told, local_s};
      if (arrivals_.size() < kMostWaiting) arrivals_.push_back({key, local_s, true});
    } else {
      found->second = {told, local_s};
    }
    return;
  }
  if (found == visits_.end()) return;
  const Visit visit = found->second;
  if (!visit.told && local_s - visit.last_s < kGone_s) return;
  visits_.erase(found);
  if (arrivals_.size() < kMostWaiting) {
    arrivals_.push_back({key, visit.told ? local_s : visit.last_s, false});
  }
}

void ProfileKeeper::See(int64_t local_s, const std::vector<ProfileSeen>& all) {
  std::lock_guard lock(mutex_);
  now_s_ = local_s;
  // A clock set back by an hour tells that hour again, which the store counts once.
  if (local_s / kHour_s != hour_) {
    hour_ = local_s / kHour_s;
    hours_.clear();
  }
  std::set<std::string> here;
  std::map<std::string, std::optional<bool>> users;  // whether they are active; by name
  for (const ProfileSeen& seen : all) {
    const std::string& name = seen.component;
    here.insert(name);
    if (seen.input || !seen.users.empty()) tells_.insert(name);
    Mark({Component(name), ""}, local_s, seen.input || seen.works || !seen.users.empty());
    Present({Component(name), name}, local_s, !seen.users.empty(), seen.input);

    std::set<std::string> present = seen.users;
    if (present.empty() && seen.input && !seen.runs_as.empty()) present.insert(seen.runs_as);
    for (const std::string& user : consenting_) {
      const bool told = seen.users.contains(user);
      const bool active = present.contains(user);
      if (active) used_[user].insert(name);
      Present({User(user), name}, local_s, told, active && !told);
      // Of those who never worked with it there is nothing to say.
      const auto used = used_.find(user);
      if (used == used_.end() || !used->second.contains(name)) continue;
      Mark({User(user), name}, local_s, active);
      std::optional<bool>& any = users[user];
      any = any.value_or(false) || active;
    }
  }
  for (const auto& [user, active] : users) {
    if (active) Mark({User(user), ""}, local_s, *active);
  }
  // Who is where a component went, another host sees.
  for (auto it = visits_.begin(); it != visits_.end();) {
    if (here.contains(it->first.second)) {
      ++it;
      continue;
    }
    arrivals_.push_back({it->first, it->second.told ? local_s : it->second.last_s, false});
    it = visits_.erase(it);
  }
  std::erase_if(tells_, [&](const std::string& name) { return !here.contains(name); });
  here_ = std::move(here);
}

std::set<std::string> ProfileKeeper::Usual() const {
  std::lock_guard lock(mutex_);
  return usual_;
}

absl::Status ProfileKeeper::Write() {
  std::lock_guard store_lock(store_mutex_);
  std::vector<Lesson> lessons;
  std::vector<Arrival> arrivals;
  int64_t now_s = 0;
  bool ask = false;
  {
    std::lock_guard lock(mutex_);
    lessons.swap(lessons_);
    arrivals.swap(arrivals_);
    now_s = now_s_;
    ask = usual_hour_ != hour_;
  }
  if (now_s == 0) return absl::OkStatus();
  // Consent may have been taken back since it was seen: the store says so, and that is no failure.
  const auto unless_refused = [](const absl::Status& status) {
    return absl::IsFailedPrecondition(status) ? absl::OkStatus() : status;
  };
  if (!lessons.empty() || !arrivals.empty()) {
    const absl::Status written = store_->Together([&]() -> absl::Status {
      for (const Lesson& lesson : lessons) {
        RETURN_IF_ERROR(unless_refused(
            store_->Learn(lesson.key.first, lesson.local_s, lesson.active, lesson.key.second)));
      }
      for (const Arrival& arrival : arrivals) {
        const auto& [subject, component] = arrival.key;
        RETURN_IF_ERROR(unless_refused(
            arrival.connected ? store_->Connected(subject, component, arrival.local_s)
                              : store_->Disconnected(subject, component, arrival.local_s)));
      }
      return absl::OkStatus();
    });
    if (!written.ok()) {
      // Another time: what was seen meanwhile comes after it.
      std::lock_guard lock(mutex_);
      lessons_.insert(lessons_.begin(), lessons.begin(), lessons.end());
      arrivals_.insert(arrivals_.begin(), arrivals.begin(), arrivals.end());
      return written;
    }
  }
  if (now_s / kDay_s != aged_day_) {
    aged_day_ = now_s / kDay_s;
    RETURN_IF_ERROR(store_->AgeOut(now_s - keep_days_ * kDay_s));
  }
  return ask ? AskWhatIsUsual(now_s) : absl::OkStatus();
}

absl::StatusOr<bool> ProfileKeeper::IsUsual(int64_t local_s, const std::string& subject,
                                            const std::string& component) {
  ASSIGN_OR_RETURN(const predictor::WeekProfile profile, store_->Load(subject, component));
  return profile.seen(predictor::WeekProfile::SlotOf(local_s)) >= kLeastSeen &&
         profile.Probability(local_s) > kUsual;
}

absl::Status ProfileKeeper::AskWhatIsUsual(int64_t local_s) {
  std::set<std::string> here, tells, consenting;
  std::map<std::string, std::set<std::string>> used;
  {
    std::lock_guard lock(mutex_);
    here = here_;
    tells = tells_;
    consenting = consenting_;
    used = used_;
  }
  std::set<std::string> usual, known;  // known: by the users who work with it
  for (const std::string& user : consenting) {
    ASSIGN_OR_RETURN(const bool away, store_->IsExceptionalDay(User(user), local_s));
    for (const std::string& component : used[user]) {
      if (!here.contains(component)) continue;
      known.insert(component);
      if (away) continue;
      ASSIGN_OR_RETURN(const bool is, IsUsual(local_s, User(user), component));
      if (is) usual.insert(component);
    }
  }
  for (const std::string& component : tells) {
    if (known.contains(component)) continue;
    ASSIGN_OR_RETURN(const bool is, IsUsual(local_s, Component(component), ""));
    if (is) usual.insert(component);
  }
  std::lock_guard lock(mutex_);
  usual_ = std::move(usual);
  usual_hour_ = local_s / kHour_s;
  return absl::OkStatus();
}

absl::StatusOr<std::vector<ProfileKept>> ProfileKeeper::List() {
  RETURN_IF_ERROR(Write());
  std::lock_guard lock(store_mutex_);
  return store_->List();
}

absl::StatusOr<ProfileKept> ProfileKeeper::Describe(absl::string_view subject) {
  RETURN_IF_ERROR(Write());
  std::lock_guard lock(store_mutex_);
  ASSIGN_OR_RETURN(ProfileKept kept, store_->Describe(subject));
  if (!kept.any()) return Unknown(subject);
  return kept;
}

absl::StatusOr<ProfileDetails> ProfileKeeper::Show(absl::string_view subject, int64_t local_s) {
  ProfileDetails details;
  ASSIGN_OR_RETURN(details.kept, Describe(subject));
  std::lock_guard lock(store_mutex_);
  ASSIGN_OR_RETURN(details.week, store_->Load(subject));
  ASSIGN_OR_RETURN(details.visits, store_->Visits(subject));
  ASSIGN_OR_RETURN(details.exceptional, store_->IsExceptionalDay(subject, local_s));
  ASSIGN_OR_RETURN(const std::vector<std::string> components, store_->ComponentsOf(subject));
  for (const std::string& name : components) {
    ProfileDetails::Component& component = details.components.emplace_back();
    component.name = name;
    ASSIGN_OR_RETURN(const predictor::WeekProfile week, store_->Load(subject, name));
    for (int slot = 0; slot < predictor::WeekProfile::kSlots; ++slot) {
      component.seen_hours += week.active(slot);
    }
    ASSIGN_OR_RETURN(component.usual, IsUsual(local_s, std::string(subject), name));
    component.usual = component.usual && !details.exceptional;
  }
  return details;
}

absl::StatusOr<std::string> ProfileKeeper::Export(absl::string_view subject) {
  RETURN_IF_ERROR(Describe(subject).status());
  std::lock_guard lock(store_mutex_);
  return store_->Export(subject);
}

// What was seen of it and is not written yet.
void ProfileKeeper::Forget(const std::string& subject) {
  std::lock_guard lock(mutex_);
  const auto of_it = [&](const Key& key) { return key.first == subject; };
  std::erase_if(hours_, [&](const auto& entry) { return of_it(entry.first); });
  std::erase_if(visits_, [&](const auto& entry) { return of_it(entry.first); });
  std::erase_if(lessons_, [&](const Lesson& lesson) { return of_it(lesson.key); });
  std::erase_if(arrivals_, [&](const Arrival& arrival) { return of_it(arrival.key); });
  absl::string_view user = subject;
  if (absl::ConsumePrefix(&user, kUser)) used_.erase(std::string(user));
  usual_hour_ = -1;
}

absl::Status ProfileKeeper::Delete(absl::string_view subject) {
  RETURN_IF_ERROR(Describe(subject).status());
  std::lock_guard lock(store_mutex_);
  Forget(std::string(subject));
  return store_->Delete(subject);
}

absl::Status ProfileKeeper::SetConsent(absl::string_view user, bool consent) {
  std::lock_guard lock(store_mutex_);
  {
    std::lock_guard memory_lock(mutex_);
    if (!consent) consenting_.erase(std::string(user));
  }
  if (!consent) Forget(User(user));
  RETURN_IF_ERROR(store_->SetConsent(user, consent));
  std::lock_guard memory_lock(mutex_);
  if (consent) consenting_.insert(std::string(user));
  return absl::OkStatus();
}

absl::StatusOr<int64_t> ProfileKeeper::SetCalendar(absl::string_view user,
                                                   absl::string_view icalendar,
                                                   int64_t utc_offset_s) {
  std::lock_guard lock(store_mutex_);
  ASSIGN_OR_RETURN(const bool consents, store_->Consents(user));
  if (!consents) {
    return absl::FailedPreconditionError(
        absl::StrCat("user ", user, " has not consented to a profile, so no calendar is kept: ",
                     "`starling profile consent ", user, " --on` says that they do"));
  }
  RETURN_IF_ERROR(store_->SetCalendar(User(user), icalendar, utc_offset_s));
  {
    std::lock_guard memory_lock(mutex_);
    usual_hour_ = -1;
  }
  ASSIGN_OR_RETURN(const ProfileKept kept, store_->Describe(User(user)));
  return kept.calendar_entries;
}

}  // namespace starling
