#include "tools/starling/application.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace starling::cli {
namespace {

using testing::ElementsAre;

TEST(MembersInOrder, ThoseNearOneAnotherFollowOneAnother) {
  v1::ListResponse list;
  const auto add = [&](const char* name, v1::ComponentState state = v1::RUNNING) {
    v1::Component& component = *list.add_components();
    component.mutable_spec()->set_name(name);
    component.mutable_spec()->set_application("shop");
    component.set_state(state);
    return component.mutable_spec();
  };
  add("d");
  add("a")->add_near("c");
  add("b");
  add("c");
  add("gone", v1::LEFT);
  add("other")->set_application("batch");
  add("e")->add_near("b");
  EXPECT_THAT(MembersInOrder(list, "shop"), ElementsAre("a", "c", "b", "e", "d"));
  EXPECT_THAT(MembersInOrder(list, "batch"), ElementsAre("other"));
  EXPECT_TRUE(MembersInOrder(list, "none").empty());
  list.mutable_components(0)->mutable_spec()->add_near("application:shop");
  EXPECT_THAT(MembersInOrder(list, "shop"), ElementsAre("a", "c", "d", "b", "e"));
}

}  // namespace
}  // namespace starling::cli
