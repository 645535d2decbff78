#include "runtime/keeper/ipc.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sched.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <unistd.h>

#include <thread>

#include "base/file.h"

namespace starling::keeper {
namespace {

TEST(IpcTest, SeesObjectsOfEachKindInAnotherNamespace) {
  if (::geteuid() != 0) GTEST_SKIP() << "namespaces need root";
  // In a thread of its own, which has its namespace to itself.
  std::thread([] {
    ASSERT_EQ(::unshare(CLONE_NEWIPC), 0);
    const UniqueFd ipc = OpenFile("/proc/thread-self/ns/ipc", O_RDONLY).value();
    EXPECT_EQ(HasIpcObjects(ipc.get()).value(), false);
    const int memory = ::shmget(IPC_PRIVATE, 56, IPC_CREAT | 0600);
    EXPECT_EQ(HasIpcObjects(ipc.get()).value(), true);
    ASSERT_EQ(::shmctl(memory, IPC_RMID, nullptr), 0);
    EXPECT_EQ(HasIpcObjects(ipc.get()).value(), false);
    const int semaphore = ::semget(IPC_PRIVATE, 1, IPC_CREAT | 0600);
    EXPECT_EQ(HasIpcObjects(ipc.get()).value(), true);
    ASSERT_EQ(::semctl(semaphore, 0, IPC_RMID), 0);
    ASSERT_GE(::msgget(IPC_PRIVATE, IPC_CREAT | 0600), 0);
    EXPECT_EQ(HasIpcObjects(ipc.get()).value(), true);
  }).join();
}

TEST(IpcTest, SaysWhatIsNoNamespace) {
  const UniqueFd null = OpenFile("/dev/null", O_RDONLY).value();
  EXPECT_FALSE(HasIpcObjects(null.get()).ok());
}

TEST(IpcTest, FindsTheImagesOfANamespace) {
  char name[] = "/tmp/starling-ipc-XXXXXX";
  ASSERT_NE(::mkdtemp(name), nullptr);
  const std::string folder = name;
  ASSERT_TRUE(WriteFileAtomic(folder + "/core-2.img", "").ok());
  const UniqueFd images = OpenFile(folder, O_RDONLY | O_DIRECTORY).value();
  EXPECT_EQ(HasIpcImages(images.get()).value(), false);
  ASSERT_TRUE(WriteFileAtomic(folder + "/ipcns-var-11.img", "").ok());
  EXPECT_EQ(HasIpcImages(images.get()).value(), true);
  EXPECT_TRUE(RemoveTree(folder).ok());
}

}  // namespace
}  // namespace starling::keeper
