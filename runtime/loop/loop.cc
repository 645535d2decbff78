#include "runtime/loop/loop.h"

#include <pwd.h>
#include <unistd.h>

#include <algorithm>
#include <condition_variable>
#include <ctime>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "base/file.h"
#include "base/log.h"
#include "base/status.h"
#include "runtime/loop/messages.h"
#include "runtime/names.h"

namespace starling::loop {

using decisions::Action;
using decisions::Decision;
using decisions::Situation;
using decisions::Step;
using reservations::Amounts;
using reservations::Kind;
using reservations::Lease;
using reservations::Resource;

namespace {

constexpr auto kKeeperTimeout = std::chrono::seconds(1);
// How often what was learned is put on the shelf and written down.
constexpr Duration kKeepEvery = std::chrono::seconds(10);
// Idle memory is looked for where so much of it is, or will be, in use.
constexpr double kMemoryIsScarce = 0.6;
// Of those times, how often what was learned of the host itself is.
constexpr uint64_t kKeepHostEvery = 30;
constexpr size_t kMostHostModels = 1 << 20;
// A lease is changed when its amount is off by so much, and renewed in the last two thirds of it.
constexpr double kWorthChanging = 0.1;
constexpr double kRenewAt = 2.0 / 3;
constexpr size_t kP90 = 2;
static_assert(decisions::kLevels[kP90] == 0.9);

double UnixTime() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

int MinuteOfWeek(double time_s) {
  const auto seconds = static_cast<time_t>(time_s);
  tm local = {};
  localtime_r(&seconds, &local);
  return ((local.tm_wday + 6) % 7) * 24 * 60 + local.tm_hour * 60 + local.tm_min;
}

// Whom a component runs as; a name or a number, which is a user's of this host.
std::optional<uid_t> UserOf(const v1::ComponentSpec& spec) {
  if (spec.user().empty()) return 0;
  uint32_t number = 0;
  if (absl::SimpleAtoi(spec.user(), &number)) return number;
  passwd entry = {};
  passwd* found = nullptr;
  std::vector<char> text(16384);
  if (::getpwnam_r(spec.user().c_str(), &entry, text.data(), text.size(), &found) != 0 ||
      found == nullptr) {
    return std::nullopt;
  }
  return found->pw_uid;
}

// Of this agent's memory, what others see as well: arenas.
int64_t SharedMemory() {
  const auto status = ReadFile("/proc/self/status");
  if (!status.ok()) return 0;
  return static_cast<int64_t>(shadow::ParseMeminfo(*status, "RssShmem").value_or(0));
}

predictor::ExpertSet ExpertsOf(const Config& config) {
  predictor::ExpertSet experts = predictor::kDefaultExperts;
  for (const std::string& name : config.loop.leave_out) {
    for (int expert = 0; expert < predictor::kExpertCount; ++expert) {
      if (predictor::ExpertName(expert) == name) experts &= ~predictor::Only(expert);
    }
  }
  return experts;
}

shadow::HostIoOptions IoOptionsOf(const Config& config) {
  shadow::HostIoOptions options;
  options.network_devices = config.resources.network_devices;
  options.network_bytes_per_s = config.resources.network_bytes_per_s;
  options.storage_devices = config.resources.storage_devices;
  options.storage_bytes_per_s = config.resources.storage_bytes_per_s;
  return options;
}

bool WorthChanging(const Amounts& before, const Amounts& after) {
  for (size_t r = 0; r < reservations::kResources; ++r) {
    const auto was = static_cast<double>(before.of[r]), is = static_cast<double>(after.of[r]);
    if (std::abs(is - was) > kWorthChanging * std::max(was, 1.0)) return true;
  }
  return false;
}

// What another host says of amounts, as far as it can be.
Amounts Sane(const v1::ResourceAmounts& message) {
  Amounts amounts = FromMessage(message);
  for (int64_t& amount : amounts.of) amount = std::clamp<int64_t>(amount, 0, Amounts::kMost);
  return amounts;
}

Kind KindOf(const std::string& name) {
  for (const Kind kind : {Kind::kSoft, Kind::kFirm, Kind::kLoan}) {
    if (reservations::Name(kind) == name) return kind;
  }
  return Kind::kSoft;
}

}  // namespace

Loop::Loop(agent::Agent& agent, reservations::LeaseDesk& leases, shadow::ModelShelf& shelf,
           ProfileKeeper* profiles)
    : agent_(agent),
      host_(agent.host()),
      config_(host_.config),
      leases_(leases),
      shelf_(shelf),
      profiles_(profiles),
      past_moves_(config_.LoopPath() + "/moves.json"),
      groups_(ProcessorGroups()),
      policy_(config_.loop.policy),
      log_(config_.LoopPath() + "/decisions.jsonl") {}

Loop::~Loop() {
  thread_ = {};
  actor_.reset();
  parking_.reset();
  neighbours_.reset();
}

absl::Status Loop::Start() {
  RETURN_IF_ERROR(MakeDirectories(config_.LoopPath(), 0700));
  ASSIGN_OR_RETURN(hints_, hints::HintListener::Start(config_.HintsPath()));
  ASSIGN_OR_RETURN(limits_, Limits::Open(config_.LoopPath() + "/limits.json"));
  auto nvml = shadow::Nvml::Load();
  if (!nvml.ok()) {
    // Most hosts have none; one whose driver does not work wants to be told.
    spdlog::log(absl::IsNotFound(nvml.status()) ? spdlog::level::info : spdlog::level::warn,
                "GPUs are not sampled: {}", std::string(nvml.status().message()));
  }
  auto io = std::make_unique<shadow::HostIo>(IoOptionsOf(config_));
  storage_devices_ = io->StorageNumbers();
  watch_ = std::make_unique<HostWatch>(Seconds(config_.loop.period), hints_.get(), "/proc",
                                       nvml.ok() ? *std::move(nvml) : nullptr, ExpertsOf(config_),
                                       std::move(io));
  watch_->SetFolders(Folders());
  const absl::Status learned = TakeUpHost();
  if (!learned.ok()) spdlog::warn("what was learned of this host: {}", learned.ToString());
  Actor::Parts parts;
  parts.cgroup = [this](const std::string& component) { return CgroupOf(component); };
  parts.processors = [this](int group) {
    return WriteProcessors(groups_.at(static_cast<size_t>(group)));
  };
  parts.rest = [this](const Step& step) { return Rest(step); };
  parts.activities = [this](const std::string& component) { return Activities(component); };
  parts.came_back = [this](Duration after) {
    std::lock_guard lock(mutex_);
    came_back_.emplace_back(decisions::Rest::kMoved, after);
  };
  parking_ = std::make_unique<Parking>(*limits_, PartsOfParking());
  parts.in_vain = [this] {
    std::lock_guard lock(mutex_);
    in_vain_ = true;
  };
  actor_ = std::make_unique<Actor>(agent_, *limits_, std::move(parts));
  {
    std::lock_guard lock(mutex_);
    RETURN_IF_ERROR(watch_->Step(Clock::now(), UnixTime()));
  }
  RETURN_IF_ERROR(Measure(Clock::now()));
  if (config_.loop.enabled) neighbours_ = std::make_unique<Neighbours>(agent_, config_.loop.period);
  thread_ = std::jthread([this](const std::stop_token& stop) { Run(stop); });
  return absl::OkStatus();
}

void Loop::Stop() {
  if (thread_.joinable()) {
    thread_.request_stop();
    thread_.join();
  }
  LetGo("the agent goes down", true);
  Keep();
  KeepHost();
}

void Loop::LetGo(absl::string_view why, bool others_too) {
  parking_->WakeAll(why, others_too);
  Complain("limits", limits_->RestoreAll());
}

void Loop::Reported(const v1::MigrationReport& report) {
  const absl::Status learned = past_moves_.Learn(report);
  if (!learned.ok()) spdlog::warn("what a move took: {}", learned.ToString());
}

void Loop::Complain(const std::string& kind, const absl::Status& status) {
  const std::string text = status.ok() ? "" : std::string(status.message());
  if (std::exchange(complaints_[kind], text) != text && !status.ok()) {
    spdlog::warn("{}: {}", kind, status.ToString());
  }
}

void Loop::Run(const std::stop_token& stop) {
  std::mutex sleep_mutex;
  std::condition_variable_any sleep;
  TimePoint next = Clock::now();
  while (!stop.stop_requested()) {
    // After a pause, as that of a host that slept, the beat begins anew.
    next = std::max(next + config_.loop.period, Clock::now() - config_.loop.period);
    {
      std::unique_lock lock(sleep_mutex);
      sleep.wait_until(lock, stop, next, [] { return false; });
    }
    if (!stop.stop_requested()) Tick(Clock::now());
  }
}

void Loop::Tick(TimePoint now) {
  if (config_.loop.enabled) {
    Follow(now);
    ParkArrivals(now);
  }
  {
    std::set<std::string> leaving = agent_.Moving();
    leaving.merge(actor_->Moving());
    const bool arriving = agent_.Arriving();
    std::lock_guard lock(mutex_);
    watch_->SetMoving(leaving, arriving);
    Complain("sampling the host", watch_->Step(now, UnixTime()));
    Complain("sampling the GPUs", watch_->gpu_status());
  }
  Complain("leases", Measure(now));
  CoolDown();
  if (!config_.loop.enabled) return;
  TellProfiles();
  const std::vector<Neighbour> neighbours = neighbours_->All();
  for (const Neighbour& neighbour : neighbours) {
    if (!neighbour.heard) continue;
    Complain("what moves to here took", past_moves_.Hear(neighbour.name, neighbour.said.moves()));
  }
  JoinPool(neighbours);
  ReadPolicy();
  Enforce();
  if (!kept_ || now - *kept_ >= kKeepEvery) {
    kept_ = now;
    Keep();
    if (++keeps_ % kKeepHostEvery == 0) KeepHost();
  }
  Situation situation = Describe(now, neighbours);
  DescribeGhosts(now, situation);
  Decision decision;
  decisions::Policy policy;
  {
    std::lock_guard lock(mutex_);
    policy = policy_.policy();
    if (std::exchange(in_vain_, false)) judge_.InVain(policy);
    for (const auto& [rest, after] : std::exchange(came_back_, {})) judge_.CameBack(rest, after);
  }
  decision = judge_.Decide(now, policy, situation);
  SeeNeeds(now, decision, situation);
  if (judge_.Tell(now, decision)) {
    std::lock_guard lock(log_mutex_);
    Complain("log of decisions", log_.Append({situation, policy, decision}));
  }
  if (policy.act) CarryOut(decision, situation, neighbours);
}

// --- What is here ---

bool Loop::TakeUp(const std::shared_ptr<agent::Copy>& copy) {
  const std::string& name = copy->name();
  const auto status = copy->Status(Deadline::After(kKeeperTimeout));
  if (!status.ok() || status->phase() == keeper::v1::Status::EXITED) return false;
  Here here{copy, status->cgroup(), status->spec(), Clock::now(), std::nullopt};
  // Only its own network is its own.
  if (!here.spec.ip().empty() && status->init_pid() > 0) here.pid = status->init_pid();
  // An agent that was killed may have left it shrunk.
  Complain("limits", limits_->Shrink(name, here.cgroup, 0));
  absl::Status taken;
  {
    std::lock_guard lock(mutex_);
    taken = watch_->Add(name, here.cgroup, here.pid, shelf_.Get(name));
    here_[name] = here;
  }
  if (!taken.ok()) host_.Event(name, "shadow-refused", taken.message());
  const std::optional<uid_t> user = UserOf(here.spec);
  Complain(absl::StrCat("hints of ", name),
           user ? hints_->Add(name, *user)
                : absl::NotFoundError(absl::StrCat("there is no user ", here.spec.user())));
  return true;
}

void Loop::Follow(TimePoint) {
  std::map<std::string, std::shared_ptr<agent::Copy>> copies;
  for (const auto& copy : host_.components->All()) copies[copy->name()] = copy;
  std::vector<std::string> gone;
  {
    std::lock_guard lock(mutex_);
    for (const auto& [name, here] : here_) {
      const auto found = copies.find(name);
      // Another copy of the same name is another component.
      if (found == copies.end() || found->second != here.copy) gone.push_back(name);
    }
    for (const std::string& name : gone) {
      watch_->Remove(name);
      here_.erase(name);
    }
  }
  for (const std::string& name : gone) {
    hints_->Remove(name);
    for (const char* of : {"hints of ", "memory.low of ", "io.max of "}) {
      complaints_.erase(absl::StrCat(of, name));
    }
  }
  // What was taken of a copy is not taken of the next one of its name.
  const auto stays = [&](const std::string& name) {
    return copies.contains(name) && std::find(gone.begin(), gone.end(), name) == gone.end();
  };
  limits_->KeepOnly(stays);
  parking_->KeepOnly(stays);
  for (const auto& [name, copy] : copies) {
    bool known = false;
    {
      std::lock_guard lock(mutex_);
      known = here_.contains(name);
    }
    if (!known) TakeUp(copy);
  }
  {
    std::lock_guard lock(mutex_);
    watch_->SetFolders(Folders());
  }
}

// With mutex_ held, or before there is another thread.
std::vector<std::string> Loop::Folders() const {
  std::vector<std::string> folders = config_.resources.disk;
  if (folders.empty()) folders = {config_.state_dir, config_.log_dir};
  for (const auto& [name, here] : here_) {
    for (const std::string& path : here.spec.ship()) {
      folders.push_back(path.substr(0, std::max<size_t>(1, path.rfind('/'))));
    }
  }
  return folders;
}

std::string Loop::CgroupOf(const std::string& component) const {
  std::lock_guard lock(mutex_);
  const auto found = here_.find(component);
  return found == here_.end() ? "" : found->second.cgroup;
}

absl::Status Loop::Measure(TimePoint now) {
  reservations::LeaseDesk::Measured measured;
  {
    std::lock_guard lock(mutex_);
    measured.total = watch_->Capacity();
    measured.used = watch_->AllUsed();
    measured.of_each = watch_->Used();
  }
  // Those that are not watched, or not yet, are here all the same.
  for (const auto& copy : host_.components->All()) measured.of_each[copy->name()];
  measured.landing[Resource::kMemory] = SharedMemory();
  return leases_.Measure(now, measured);
}

// Files are warm for as long as their lease waits for its component; then they are its own.
void Loop::CoolDown() {
  std::set<std::string> waiting;
  const auto look = [&] {
    for (const Lease& lease : leases_.List()) {
      if (!lease.pinned) waiting.insert(lease.id);
    }
  };
  look();
  warmth_.KeepOnly([&](const std::string& lease) {
    // One that is missing may have been granted a moment ago.
    if (!waiting.contains(lease)) look();
    return waiting.contains(lease);
  });
}

void Loop::Keep() {
  std::map<std::string, shadow::ModelShelf::Models> saved;
  {
    std::lock_guard lock(mutex_);
    saved = watch_->Save();
  }
  for (auto& [name, models] : saved) Complain("models", shelf_.Put(name, std::move(models)));
  // What is arriving is claimed until it is among the components.
  shelf_.KeepOnly([this](const std::string& name) {
    return host_.components->Busy(name) || host_.components->Find(name) != nullptr;
  });
  Complain("models", shelf_.Flush());
}

void Loop::KeepHost() const {
  v1::ShadowModels message;
  {
    std::lock_guard lock(mutex_);
    for (std::string& model : watch_->SaveHost()) message.add_models(std::move(model));
  }
  const absl::Status written = WriteFileAtomic(HostModelsPath(), message.SerializeAsString());
  if (!written.ok()) spdlog::warn("what was learned of this host: {}", written.ToString());
}

absl::Status Loop::TakeUpHost() {
  const auto bytes = ReadFile(HostModelsPath(), kMostHostModels);
  if (absl::IsNotFound(bytes.status())) return absl::OkStatus();
  if (!bytes.ok()) return bytes.status();
  v1::ShadowModels message;
  if (!message.ParseFromString(*bytes)) {
    return absl::DataLossError(absl::StrCat(HostModelsPath(), " is damaged: it is learned afresh"));
  }
  std::lock_guard lock(mutex_);
  return Annotate(watch_->RestoreHost({message.models().begin(), message.models().end()}),
                  HostModelsPath());
}

void Loop::TellProfiles() {
  if (profiles_ == nullptr) return;
  std::vector<ProfileSeen> seen;
  {
    std::lock_guard lock(mutex_);
    seen = watch_->Presence();
    for (ProfileSeen& one : seen) {
      const auto found = here_.find(one.component);
      if (found != here_.end()) one.runs_as = found->second.spec.user();
    }
  }
  profiles_->See(LocalTime(UnixTime()), seen);
}

void Loop::JoinPool(const std::vector<Neighbour>& neighbours) {
  std::lock_guard lock(mutex_);
  std::set<std::string> in_pool = {config_.host};
  silent_.clear();
  const auto add = [](ScoredDemand& joint, const predictor::Summary& summary) {
    predictor::Forecast forecasts[predictor::kHorizonCount];
    for (int h = 0; h < predictor::kHorizonCount; ++h) forecasts[h] = summary.At(h);
    joint.Add(summary.fields[0], forecasts);
  };
  const Amounts own = watch_->Capacity();
  pool_cpus_ = static_cast<double>(own[Resource::kCpu]);
  pool_bytes_ = static_cast<double>(own[Resource::kMemory]);
  add(pool_cpu_, watch_->cpu().Summary());
  add(pool_memory_, watch_->memory().Summary());
  for (const Neighbour& neighbour : neighbours) {
    // Another step is another horizon.
    if (!neighbour.heard || neighbour.said.step_s() != Seconds(config_.loop.period)) {
      silent_.insert(neighbour.name);
      continue;
    }
    in_pool.insert(neighbour.name);
    pool_cpus_ += static_cast<double>(neighbour.said.capacity().cpu());
    pool_bytes_ += static_cast<double>(neighbour.said.capacity().memory());
    add(pool_cpu_, neighbour.cpu);
    add(pool_memory_, neighbour.memory);
  }
  if (in_pool != in_pool_) {
    pool_cpu_.Changed();
    pool_memory_.Changed();
    in_pool_ = std::move(in_pool);
  }
  pool_cpu_.End();
  pool_memory_.End();
}

void Loop::ReadPolicy() {
  absl::Status read;
  decisions::Policy now;
  {
    std::lock_guard lock(mutex_);
    read = policy_.Refresh();
    now = policy_.policy();
  }
  if (!read.ok()) host_.Event("", "policy-refused", read.message());
  if (now == policy_before_) return;
  if (policy_before_.act && !now.act) {
    LetGo("the policy only observes", false);
    DropOwnGhosts("the policy only observes");
  }
  policy_before_ = now;
  host_.Event("", "policy", absl::StrCat("read anew: ", now.act ? "act" : "observe"));
}

// --- What to do ---

void Loop::DescribeComponent(TimePoint now, const std::set<std::string>& busy,
                             decisions::ComponentView& view) {
  const Here& here = here_.at(view.name);
  view.priority = here.spec.priority();
  // What is foreseen of one that has just landed is its landing.
  const bool settled = now - here.since >= predictor::kLongest * config_.loop.period;
  view.movable = settled && !busy.contains(view.name) && !actor_->RestsFromFailure(view.name, now);
  view.bears_blackout_s = here.spec.bears_blackout_s() > 0 ? here.spec.bears_blackout_s()
                                                           : Seconds(config_.loop.bears_blackout);
  view.settled = settled;
  view.degraded = limits_->degraded(view.name);
  const FittedLimits fitted = limits_->fitted(view.name);
  view.limit[Resource::kCpu] = fitted.cpu;
  view.limit[Resource::kMemory] = fitted.memory;
  view.weight = fitted.weight;
  const Parking::State rests = parking_->Of(view.name);
  view.rest = rests.rest;
  view.rests_by_hand = rests.by == Parking::By::kPerson;
  view.sent_to_rest = rests.by == Parking::By::kHost;
  view.group = GroupOf(here.cgroup, groups_);
  const double memory = view.use[static_cast<size_t>(Resource::kMemory)].now;
  const decisions::MoveCost cost = past_moves_.Expect(view.name, memory);
  view.move_bytes = cost.bytes;
  view.move_blackout_s = cost.blackout_s;
  view.application = here.spec.application();
  view.near.assign(here.spec.near().begin(), here.spec.near().end());
  view.apart.assign(here.spec.apart().begin(), here.spec.apart().end());
  view.affinity.assign(here.spec.prefers().begin(), here.spec.prefers().end());
}

void Loop::DescribePeer(TimePoint now, const Neighbour& neighbour, Situation& situation) {
  decisions::HostView& view = situation.hosts.emplace_back();
  view.name = neighbour.name;
  view.room = Sane(neighbour.said.free());
  const Amounts has = Sane(neighbour.said.capacity());
  for (const Resource resource : decisions::kMayBeUnmeasured) {
    if (has[resource] == 0) view.room[resource] = Amounts::kMost;
  }
  view.price_per_hour = decisions::PriceOf(policy_.policy(), policy_.prices(), neighbour.name,
                                           situation.time_s, situation.minute_of_week);
  view.distance_s = neighbour.distance_s;
  view.bytes_per_s = past_moves_.link_bytes_per_s();
  view.components.assign(neighbour.said.components().begin(), neighbour.said.components().end());
  for (const std::string& application : neighbour.said.applications()) {
    view.components.push_back(absl::StrCat(kOfApplication, application));
  }
  for (const v1::LeaseInfo& lease : neighbour.said.yours()) {
    const std::string key = absl::StrCat(neighbour.name, " ", lease.id());
    // That of a ghost is no reservation of ours that might be in vain.
    if (agent_.HasGhost(lease.component(), neighbour.name)) lease_seen_[key] = now;
    const TimePoint seen = lease_seen_.emplace(key, now).first->second;
    situation.leases.push_back({lease.id(), neighbour.name, lease.component(), KindOf(lease.kind()),
                                Sane(lease.amount()), Seconds(now - seen)});
  }
}

Situation Loop::Describe(TimePoint now, const std::vector<Neighbour>& neighbours) {
  Situation situation;
  situation.time_s = UnixTime();
  situation.minute_of_week = MinuteOfWeek(situation.time_s);
  situation.host = config_.host;
  std::map<std::string, Amounts> promised;  // to components that run here
  const std::vector<Lease> leases = leases_.List();
  for (const Lease& lease : leases) {
    if (lease.kind == Kind::kFirm && !lease.pinned) situation.incoming += lease.amount;
    if (lease.pinned) promised[lease.component] = lease.amount;
  }
  const Amounts free = leases_.free().AboveZero();
  // What has landed of it is in use already.
  int64_t& incoming = situation.incoming[Resource::kMemory];
  incoming -= std::min(incoming, SharedMemory());
  std::set<std::string> busy;
  for (const auto& copy : host_.components->All()) {
    if (host_.components->Busy(copy->name())) busy.insert(copy->name());
  }
  const std::set<std::string> usual = profiles_ ? profiles_->Usual() : std::set<std::string>();
  std::lock_guard lock(mutex_);
  situation.price_per_hour = decisions::PriceOf(policy_.policy(), policy_.prices(), config_.host,
                                                situation.time_s, situation.minute_of_week);
  watch_->Describe(now, situation);
  const shadow::HostUse& use = watch_->use();
  const auto memory = static_cast<size_t>(Resource::kMemory);
  const bool scarce = use.swap_free > 0 &&
                      std::max(situation.demand[memory].now, situation.demand[memory].at[0][kP90]) >
                          kMemoryIsScarce * static_cast<double>(situation.capacity.of[memory]);
  std::set<std::string> names;
  auto swap_left = static_cast<int64_t>(use.swap_free);
  for (decisions::ComponentView& view : situation.components) {
    DescribeComponent(now, busy, view);
    view.usual = usual.contains(view.name);
    if (const auto lease = promised.find(view.name); lease != promised.end()) {
      view.least = lease->second;
    }
    for (const Resource resource : {Resource::kCpu, Resource::kMemory}) {
      const double in_use = view.use[static_cast<size_t>(resource)].now;
      view.most[resource] = std::max<int64_t>(
          1, free[resource] + std::max(view.least[resource], static_cast<int64_t>(in_use)));
    }
    if (const auto own = here_.at(view.name).spec.memory_bytes(); own > 0) {
      view.most[Resource::kMemory] =
          std::min(view.most[Resource::kMemory], static_cast<int64_t>(own));
    }
    names.insert(view.name);
    if (!scarce || busy.contains(view.name)) continue;
    idle_.Look(view.name, here_.at(view.name).cgroup, now);
    view.idle_bytes = std::min(idle_.Bytes(view.name), swap_left);
    swap_left -= view.idle_bytes;
  }
  idle_.KeepOnly(names);
  for (const Processors& group : groups_) {
    situation.groups.push_back({1000.0 * static_cast<double>(group.size()), 0});
  }
  for (const decisions::ComponentView& view : situation.components) {
    if (view.group < 0) continue;
    situation.groups[static_cast<size_t>(view.group)].demand +=
        view.use[static_cast<size_t>(Resource::kCpu)].at[0][kP90];
  }
  std::set<std::string> seen;
  for (const Neighbour& neighbour : neighbours) {
    if (neighbour.heard) DescribePeer(now, neighbour, situation);
  }
  for (const decisions::LeaseView& lease : situation.leases) {
    seen.insert(absl::StrCat(lease.host, " ", lease.id));
  }
  std::erase_if(lease_seen_, [&](const auto& entry) { return !seen.contains(entry.first); });
  return situation;
}

void Loop::CarryOut(const Decision& decision, const Situation& situation,
                    const std::vector<Neighbour>& neighbours) {
  Actor::Terms terms;
  terms.length = std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(policy_before_.reserve.lease_s));
  terms.every_s = policy_before_.ghosts.every_s;
  const auto lease_of = [&](const Step& step) -> const v1::LeaseInfo* {
    for (const Neighbour& neighbour : neighbours) {
      if (neighbour.name != step.host) continue;
      for (const v1::LeaseInfo& lease : neighbour.said.yours()) {
        if (lease.id() == step.lease) return &lease;
      }
    }
    return nullptr;
  };
  for (const Step& step : decision.steps) {
    if (step.action == Action::kReserve && !step.lease.empty()) {
      const v1::LeaseInfo* lease = lease_of(step);
      if (lease == nullptr) continue;
      const bool soon = lease->left_s() < kRenewAt * Seconds(terms.length);
      if (!soon && !WorthChanging(Sane(lease->amount()), step.amount)) continue;
    }
    for (const decisions::ComponentView& component : situation.components) {
      if (component.name == step.component) terms.priority = component.priority;
    }
    actor_->Submit(step, terms);
  }
  // What was reserved for a component that is not here any more.
  for (const decisions::LeaseView& lease : situation.leases) {
    if (host_.components->Find(lease.component) != nullptr ||
        host_.components->Busy(lease.component) || agent_.HasGhost(lease.component, lease.host)) {
      continue;
    }
    Step step;
    step.action = Action::kGiveBack;
    step.component = lease.component;
    step.host = lease.host;
    step.lease = lease.id;
    step.reason = "its component is not here any more";
    actor_->Submit(step, terms);
  }
}

}  // namespace starling::loop
