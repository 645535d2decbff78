// Of Loop: ghosts that it keeps at other hosts, and those that this host keeps for them.

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "base/units.h"
#include "runtime/loop/loop.h"
#include "runtime/migration/ghost_value.h"

namespace starling::loop {

using decisions::Action;
using decisions::ComponentView;
using decisions::Situation;
using decisions::Step;
using reservations::Resource;

namespace {

// Before a ghost of a component, or a move, has shown it: all of its memory in so long.
constexpr double kUnknownRewrite_s = 300;

}  // namespace

void Loop::DescribeGhosts(TimePoint now, Situation& situation) {
  const auto memory = static_cast<size_t>(Resource::kMemory);
  std::set<std::pair<std::string, std::string>> there;
  const v1::ListGhostsResponse ghosts = agent_.ListGhosts();
  for (const v1::GhostInfo& ghost : ghosts.away()) {
    const std::string& name = ghost.wish().component();
    const std::string& on = ghost.wish().on();
    const auto component =
        std::find_if(situation.components.begin(), situation.components.end(),
                     [&](const ComponentView& view) { return view.name == name; });
    if (component == situation.components.end() || ghost.state() == "dropped") continue;
    there.emplace(name, on);
    needs_.Saw(name, on, ghost.rounds(), ghost.bytes_sent(), now);
    decisions::GhostView& view = situation.ghosts.emplace_back();
    view.component = name;
    view.host = on;
    view.by_hand = !ghost.wish().by_loop();
    view.ready = ghost.state() == "warm" && ghost.rounds() > 0;
    view.bytes = component->use[memory].now;
    view.bytes_per_s =
        needs_.WrittenPerSecond(name).value_or(component->use[memory].now / kUnknownRewrite_s);
    // What is written until the next round ends is sent inside the move.
    view.left_bytes = view.bytes_per_s * (std::max(0.0, ghost.fresh_s()) + ghost.wish().every_s());
    view.age_s = needs_.Age(name, on, now);
    view.unneeded_s = needs_.UnneededFor(name, on, now);
    view.again = needs_.Again(name, on);
  }
  for (const auto& gone : ghosts_there_) {
    if (there.contains(gone)) continue;
    needs_.Gone(gone.first, gone.second);
    // Not by what was decided here: somebody dropped it, or its host ended it.
    needs_.GivenUp(gone.first, now);
  }
  ghosts_there_ = std::move(there);
  for (ComponentView& component : situation.components) {
    component.may_stage = !actor_->RestsFromFailure(Actor::StagingOf(component.name), now) &&
                          needs_.MayStage(component.name, now, policy_before_.ghosts.half_life_s);
    component.written_bytes_per_s =
        needs_.WrittenPerSecond(component.name)
            .value_or(past_moves_.WrittenPerSecond(component.name)
                          .value_or(component.use[memory].now / kUnknownRewrite_s));
  }
  for (const migration::Targets::KeptHere& kept : agent_.KeptGhosts()) {
    decisions::KeptView& view = situation.kept.emplace_back();
    view.component = kept.component;
    view.from = kept.source;
    view.priority = kept.facts.priority;
    view.bytes = static_cast<double>(kept.facts.bytes);
    view.value = migration::ValueOf(kept.facts);
    view.last = kept.facts.instants && kept.facts.silent;
  }
}

void Loop::SeeNeeds(TimePoint now, const decisions::Decision& decision,
                    const Situation& situation) {
  for (const Step& step : decision.steps) {
    if (step.action == Action::kReserve || step.action == Action::kMigrate) {
      needs_.Needed(step.component, step.host, now);
    }
    if (step.action != Action::kDropGhost || !policy_before_.act) continue;
    if (ghosts_there_.erase({step.component, step.host}) > 0) {
      needs_.Gone(step.component, step.host);
    }
    const decisions::GhostView* const ghost =
        decisions::GhostOf(situation, step.component, step.host);
    // While it was still needed, it was not worth it.
    if (ghost != nullptr && ghost->unneeded_s < policy_before_.reserve.patience_s &&
        policy_before_.allow.ghost) {
      needs_.GivenUp(step.component, now);
    }
  }
  needs_.Step(now);
  needs_.KeepOnly([this](const std::string& component) {
    return host_.components->Find(component) != nullptr;
  });
}

void Loop::DropOwnGhosts(absl::string_view why) {
  const v1::ListGhostsResponse ghosts = agent_.ListGhosts();
  for (const v1::GhostInfo& ghost : ghosts.away()) {
    if (!ghost.wish().by_loop() || ghost.state() == "dropped") continue;
    Step step;
    step.action = Action::kDropGhost;
    step.component = ghost.wish().component();
    step.host = ghost.wish().on();
    step.reason = std::string(why);
    actor_->Submit(step, {});
  }
  ghosts_there_.clear();
}

}  // namespace starling::loop
