# Settings that every target of ours shares, and the few functions the rooms use.

add_library(starling_options INTERFACE)
target_compile_options(starling_options INTERFACE -Wall -Wextra -Wno-missing-field-initializers)
if(STARLING_WERROR)
  target_compile_options(starling_options INTERFACE -Werror)
endif()
target_include_directories(starling_options INTERFACE ${CMAKE_SOURCE_DIR})
if(STARLING_SANITIZE)
  add_compile_options(-fsanitize=${STARLING_SANITIZE} -fno-omit-frame-pointer -fno-sanitize-recover=all)
  add_link_options(-fsanitize=${STARLING_SANITIZE})
  if(STARLING_SANITIZE MATCHES address AND CMAKE_CXX_COMPILER_ID STREQUAL GNU)
    # g++ 12 takes its own std::regex for uninitialized under asan.
    add_compile_options(-Wno-maybe-uninitialized)
  endif()
  if(STARLING_SANITIZE MATCHES thread)
    # g++ 12 warns that tsan does not model atomic_thread_fence, which third-party headers use.
    add_compile_options(-Wno-tsan)
  endif()
endif()

if(STARLING_FUZZ)
  add_compile_options(-fsanitize=fuzzer-no-link)
endif()

# starling_room(NAME SOURCES... ) makes the library starling_NAME of one room.
function(starling_room name)
  add_library(starling_${name} STATIC ${ARGN})
  add_library(starling::${name} ALIAS starling_${name})
  target_link_libraries(starling_${name} PUBLIC starling_options)
endfunction()

# starling_test(NAME SOURCE [LIBRARIES...]) makes one unit test binary, run by ctest with label "unit".
function(starling_test name source)
  if(NOT TARGET starling_test_main)
    add_library(starling_test_main STATIC ${CMAKE_SOURCE_DIR}/tests/main.cc)
    target_link_libraries(starling_test_main PUBLIC GTest::gtest GTest::gmock PRIVATE starling_options)
  endif()
  add_executable(${name} ${source})
  target_link_libraries(${name} PRIVATE starling_options ${ARGN} starling_test_main)
  set_target_properties(${name} PROPERTIES RUNTIME_OUTPUT_DIRECTORY ${CMAKE_BINARY_DIR}/tests)
  add_test(NAME ${name} COMMAND ${name})
  set_tests_properties(${name} PROPERTIES LABELS unit TIMEOUT 120 SKIP_RETURN_CODE 77)
  if(STARLING_SANITIZE MATCHES thread)
    # Debian's gRPC, absl and OpenSSL are not instrumented: their own locks are not seen, and what lies between two of
    # their calls is taken for a race.
    set_tests_properties(${name} PROPERTIES ENVIRONMENT TSAN_OPTIONS=ignore_noninstrumented_modules=1)
  endif()
endfunction()

# starling_workload(NAME SOURCE [LIBRARIES...]) makes a program that tests and benchmarks move, or whose memory they
# damage. Without sanitizers, whose own memory would be part of its.
function(starling_workload name source)
  add_executable(${name} ${source} ${CMAKE_SOURCE_DIR}/tools/witness/values.cc)
  target_link_libraries(${name} PRIVATE starling_options absl::strings Threads::Threads ${ARGN})
  target_compile_options(${name} PRIVATE -fno-sanitize=all)
  target_link_options(${name} PRIVATE -fno-sanitize=all)
endfunction()

# starling_proto(TARGET PROTO [GRPC]) compiles one .proto into the library TARGET and, with GRPC, its services into
# TARGET_grpc, so that programs that only need the messages do not link gRPC. Generated code is not ours to keep free
# of warnings.
function(starling_proto target proto)
  cmake_parse_arguments(ARG "GRPC" "" "" ${ARGN})
  get_filename_component(stem ${proto} NAME_WE)
  get_filename_component(dir ${proto} DIRECTORY)
  file(RELATIVE_PATH rel ${CMAKE_SOURCE_DIR} ${CMAKE_CURRENT_SOURCE_DIR}/${dir})
  set(source ${CMAKE_CURRENT_SOURCE_DIR}/${proto})
  set(root ${CMAKE_BINARY_DIR}/proto)
  set(out ${root}/${rel}/${stem})
  file(MAKE_DIRECTORY ${root})
  add_custom_command(
    OUTPUT ${out}.pb.cc ${out}.pb.h
    COMMAND $<TARGET_FILE:protobuf::protoc> -I ${CMAKE_SOURCE_DIR} --cpp_out=${root} ${source}
    DEPENDS ${source}
    COMMENT "protoc ${proto}")
  add_library(${target} STATIC ${out}.pb.cc ${out}.pb.h)
  target_include_directories(${target} SYSTEM PUBLIC ${root})
  target_link_libraries(${target} PUBLIC protobuf::libprotobuf)
  if(ARG_GRPC)
    add_custom_command(
      OUTPUT ${out}.grpc.pb.cc ${out}.grpc.pb.h
      COMMAND $<TARGET_FILE:protobuf::protoc> -I ${CMAKE_SOURCE_DIR} --grpc_out=${root}
              --plugin=protoc-gen-grpc=$<TARGET_FILE:gRPC::grpc_cpp_plugin> ${source}
      DEPENDS ${source}
      COMMENT "protoc ${proto} (services)")
    add_library(${target}_grpc STATIC ${out}.grpc.pb.cc ${out}.grpc.pb.h)
    target_link_libraries(${target}_grpc PUBLIC ${target} gRPC::grpc++)
  endif()
endfunction()
