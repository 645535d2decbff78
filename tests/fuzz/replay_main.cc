// Reads every file of the folders given, whole, cut at many places, and with bytes altered, and
// some made of nothing but a generator's output. Deterministic.

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>

#include "tests/fuzz/fuzz.h"

namespace {

void Give(const std::string& bytes) {
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
}

}  // namespace

int main(int argc, char** argv) {
  std::mt19937 random(1);
  size_t given = 0;
  Give("");
  for (int i = 1; i < argc; ++i) {
    for (const auto& entry : std::filesystem::directory_iterator(argv[i])) {
      std::ifstream file(entry.path(), std::ios::binary);
      const std::string seed{std::istreambuf_iterator<char>(file), {}};
      Give(seed);
      const size_t step = seed.size() / 64 + 1;
      for (size_t cut = 0; cut < seed.size(); cut += step) Give(seed.substr(0, cut));
      for (int n = 0; n < 200 && !seed.empty(); ++n) {
        std::string altered = seed;
        for (int k = 0; k <= n % 4; ++k)
          altered[random() % altered.size()] = static_cast<char>(random());
        Give(altered);
      }
      ++given;
    }
  }
  for (int n = 0; n < 100; ++n) {
    std::string noise(random() % 4096, '\0');
    for (char& byte : noise) byte = static_cast<char>(random());
    Give(noise);
  }
  std::printf("%zu seeds\n", given);
  return given > 0 ? 0 : 1;
}
