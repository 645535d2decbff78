#pragma once

#include <sys/types.h>

#include <array>
#include <limits>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"
#include "base/huge_pool.h"
#include "predictor/forecaster.h"
#include "predictor/idleness.h"
#include "runtime/decisions/situation.h"
#include "runtime/hints/hint_listener.h"
#include "runtime/loop/scored_demand.h"
#include "runtime/profiles/profile_keeper.h"
#include "runtime/proto/loop.pb.h"
#include "runtime/reservations/lease_desk.h"
#include "runtime/shadow/host_io.h"
#include "runtime/shadow/host_sampler.h"
#include "runtime/shadow/model_shelf.h"
#include "runtime/shadow/nvml.h"
#include "runtime/shadow/shadow.h"

namespace starling::loop {

// What is known of this host and its components: their shadows, what the rest of the host uses, and
// the joint demand of all of it. It watches and touches nothing. Not thread-safe.
class HostWatch {
 public:
  // `hints` may be nullptr, and so may `nvml`: then there are no GPUs; and `io`: then nothing is
  // known of disk, network and storage. `proc`: the /proc to look into. `experts`: those that are
  // asked.
  HostWatch(double step_s, hints::HintListener* hints, std::string proc = "/proc",
            std::unique_ptr<shadow::Nvml> nvml = nullptr,
            predictor::ExpertSet experts = predictor::kDefaultExperts,
            std::unique_ptr<shadow::HostIo> io = nullptr);

  // A component came. The status says what of `models` could not be taken; it is watched anyway.
  absl::Status Add(const std::string& name, const std::string& cgroup, std::optional<pid_t> pid,
                   const shadow::ModelShelf::Models& models);
  void Remove(const std::string& name);
  // What is on its way. `leaving`, to other hosts: what they use is not part of what is foreseen
  // here. `arriving`: something comes here.
  void SetMoving(const std::set<std::string>& leaving, bool arriving);
  // Folders whose file systems are the host's disk space.
  void SetFolders(const std::vector<std::string>& folders);

  // Samples everything. An error is the host's own; components that are gone are passed over until
  // they are removed.
  absl::Status Step(TimePoint now, double time_s);

  // Of the last step: why nothing is known of the GPUs; OK where there are none.
  const absl::Status& gpu_status() const { return gpu_status_; }

  std::set<std::string> names() const;
  const shadow::HostUse& use() const { return use_; }
  // What each component uses now, as leases count.
  std::map<std::string, reservations::Amounts> Used() const;
  // What all of it uses now; processors as over the last minute, so that a moment is no shortage of
  // what can be promised.
  reservations::Amounts AllUsed() const;
  reservations::Amounts Capacity() const;
  std::map<std::string, shadow::ModelShelf::Models> Save() const;
  // What was learned of the host itself and of users: for a restart. What cannot be taken is
  // learned afresh; the first reason is returned.
  shadow::ModelShelf::Models SaveHost() const;
  absl::Status RestoreHost(const shadow::ModelShelf::Models& models);

  const ScoredDemand& cpu() const { return cpu_; }        // thousandths of a processor
  const ScoredDemand& memory() const { return memory_; }  // bytes

  // Fills in capacity, demand, step and components, by name, with what their shadows and hints say.
  void Describe(TimePoint now, decisions::Situation& situation) const;
  // What profiles are made of: of each component that was sampled in the last step.
  std::vector<ProfileSeen> Presence() const;
  // `experts`: with the share of each.
  std::vector<v1::ForecastOf> ShowComponents(bool experts = false) const;
  v1::ForecastOf ShowAll() const;

 private:
  struct Watched {
    std::unique_ptr<shadow::Shadow> shadow;
    decisions::Outlooks use = {};
    bool leaving = false;
    bool sampled = false;         // in the last step
    bool input = false;           // in the last step
    double cpu_lately = 0;        // thousandths of a processor, over about a minute
    std::set<std::string> users;  // connected, as it says
    // Of its user, when the component tells.
    predictor::InputActivity activity;
    predictor::IdleFeatures features = {};
    std::optional<TimePoint> active;
    double idle_probability = 0;
    std::string phase;
    // What was learned of its hints elsewhere or before, until it is listened to; and of its user.
    std::string hints_before, user_before;
  };
  // The GPUs of a host that has some.
  struct Gpus {
    Gpus(std::unique_ptr<shadow::Nvml> library, const predictor::ForecasterOptions& options);
    std::unique_ptr<shadow::Nvml> nvml;
    shadow::GpuReading reading;
    predictor::Forecaster rest_share, rest_memory;
    ScoredDemand share, memory;  // thousandths of a GPU, bytes
  };
  // Disk, network and storage, in host_watch_io.cc.
  struct Io {
    Io(std::unique_ptr<shadow::HostIo> from, const predictor::ForecasterOptions& options);
    // One of them, of which a capacity is known or not.
    struct Of {
      explicit Of(const predictor::ForecasterOptions& options) : rest(options) {}
      predictor::Forecaster rest;  // what no component uses
      ScoredDemand joint;
      shadow::HostIoUse::Of use;  // of the last step
      double lately = 0;          // over about a minute
      double components = 0;      // in this step, together
    };
    std::unique_ptr<shadow::HostIo> sampler;
    Of disk, network, storage;
    std::vector<std::string> folders;
  };
  struct Part {
    double value = 0;
    predictor::Forecast forecasts[predictor::kHorizonCount];
  };
  // What is used and foreseen of a component, by its shadow alone.
  struct Foresight {
    double value = 0;
    predictor::Forecast forecasts[predictor::kHorizonCount];
    std::array<std::array<double, decisions::kLevelCount>, predictor::kHorizonCount> at = {};
  };
  // What is saved of hints begins with it, beside the models of metrics.
  static constexpr absl::string_view kHintsMark = "STHINTS1";
  // Likewise of its user.
  static constexpr absl::string_view kUserMark = "STUSER01";
  static constexpr double kCpuScale = 1000;  // thousandths of a processor

  static Foresight ForesightOf(const shadow::Shadow& shadow, shadow::Metric metric);
  // Of two directions of a link; of reading and writing, which share a device.
  static Foresight Busier(const Foresight& a, const Foresight& b);
  static Foresight Together(const Foresight& a, const Foresight& b);
  // What a component will use of one resource, moved by its hints.
  Part Foresee(TimePoint now, const std::string& name, Watched& watched, const Foresight& seen,
               reservations::Resource resource, double scale);
  Part Foresee(TimePoint now, const std::string& name, Watched& watched, shadow::Metric metric,
               reservations::Resource resource, double scale) {
    return Foresee(now, name, watched, ForesightOf(*watched.shadow, metric), resource, scale);
  }
  void BeginIo(TimePoint now);
  void StepIo(TimePoint now, const std::string& name, Watched& watched);
  void EndIo(double time_s);
  void EndIoOf(double time_s, Io::Of& of, reservations::Resource resource);
  v1::ForecastOf ShowJoint() const;
  static void ShowNeed(double when_s, const std::array<double, decisions::kLevelCount>& levels,
                       double scale, v1::MetricForecast& metric);
  static void ShowExperts(const predictor::Forecaster& forecaster, int horizon,
                          v1::ForecastAhead& ahead);
  void ShowTrust(const std::string& name, v1::ForecastOf& shown) const;
  // What was hinted at beyond the horizons, or between them.
  void LookFarther(TimePoint now);
  void AddNeed(TimePoint now, reservations::Resource resource, double when_s);
  // nullptr: nobody measures it.
  const ScoredDemand* JointOf(reservations::Resource resource) const;
  // Open hints and their sources' reliability, among the models.
  std::string SaveHints(const std::string& name) const;
  void TakeUpHints(TimePoint now, double time_s, const std::string& name, Watched& watched);
  // When its user was last seen, and what their input was like then.
  std::string SaveUser(const Watched& watched) const;
  static void TakeUpUser(TimePoint now, double time_s, Watched& watched);
  // Sums of GPUs' parts, and what of them no component uses.
  void EndGpus(double time_s, double share, double memory);
  // A part came or went.
  void Changed();
  void SeeActivity(TimePoint now, const std::string& name, Watched& watched);
  // The same of what is not a component.
  Part FromRest(double time_s, predictor::Forecaster& forecaster, double value,
                reservations::Resource resource) const;

  const double step_s_;
  const predictor::ForecasterOptions options_;
  hints::HintListener* const hints_;
  const std::string proc_;
  shadow::HostSampler host_;
  shadow::HostUse use_;
  double processors_lately_ = 0;
  HugePool forecasters_;  // of all components: each step goes through them
  std::map<std::string, Watched> components_;
  double rest_last_ = std::numeric_limits<double>::infinity();  // as the last step measured it
  int held_ = 0;  // for so many steps more the rest's processors count as before the last move began,
                  // to or from here
  double rest_before_ = std::numeric_limits<double>::infinity();
  predictor::Forecaster rest_cpu_, rest_memory_;
  ScoredDemand cpu_, memory_;
  std::unique_ptr<Gpus> gpus_;  // nullptr: there are none
  std::unique_ptr<Io> io_;      // nullptr: nothing is known of it
  absl::Status gpu_status_;
  std::vector<decisions::NeedView> needs_;
  TimePoint stepped_{};
  double stepped_s_ = 0;  // the same, since 1970
  predictor::IdleModel idle_;
  TimePoint begun_{};
};

}  // namespace starling::loop
