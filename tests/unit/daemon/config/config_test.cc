// SPDX-License-Identifier: Apache-2.0
#include "daemon/config/config.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <fstream>

#include "shm/abi/limits.h"

namespace kvt {
namespace {

void expect_same(const Config& a, const Config& b) {
  EXPECT_EQ(a.socket_dir, b.socket_dir);
  EXPECT_EQ(a.socket_group, b.socket_group);
  EXPECT_EQ(a.period_ms, b.period_ms);
  EXPECT_EQ(a.copy_workers, b.copy_workers);
  EXPECT_EQ(a.descriptors_max, b.descriptors_max);
  EXPECT_EQ(a.prefault, b.prefault);
  EXPECT_EQ(a.lock_memory, b.lock_memory);
  EXPECT_EQ(a.state_dir, b.state_dir);
  EXPECT_EQ(a.discover_tiers, b.discover_tiers);
  ASSERT_EQ(a.memory.size(), b.memory.size());
  for (size_t i = 0; i < a.memory.size(); ++i) {
    EXPECT_EQ(a.memory[i].node, b.memory[i].node);
    EXPECT_EQ(a.memory[i].of_kind, b.memory[i].of_kind);
    EXPECT_EQ(a.memory[i].kind, b.memory[i].kind);
    EXPECT_EQ(a.memory[i].read_gbps, b.memory[i].read_gbps);
    EXPECT_EQ(a.memory[i].write_gbps, b.memory[i].write_gbps);
    EXPECT_EQ(a.memory[i].latency_ns, b.memory[i].latency_ns);
    EXPECT_EQ(a.memory[i].use, b.memory[i].use);
  }
  EXPECT_EQ(a.log_level, b.log_level);
  EXPECT_EQ(a.policy.name, b.policy.name);
  EXPECT_EQ(a.policy.profile, b.policy.profile);
  EXPECT_EQ(a.policy.promote, b.policy.promote);
  EXPECT_EQ(a.policy.move_bytes_per_second, b.policy.move_bytes_per_second);
  EXPECT_EQ(a.policy.idle_credit, b.policy.idle_credit);
  EXPECT_EQ(a.policy.cooldown_ms, b.policy.cooldown_ms);
  EXPECT_EQ(a.metrics.listen, b.metrics.listen);
  EXPECT_EQ(a.metrics.socket_group, b.metrics.socket_group);
  EXPECT_EQ(a.metrics.allow_remote, b.metrics.allow_remote);
  ASSERT_EQ(a.tiers.size(), b.tiers.size());
  for (size_t i = 0; i < a.tiers.size(); ++i) {
    EXPECT_EQ(a.tiers[i].name, b.tiers[i].name);
    EXPECT_EQ(a.tiers[i].kind, b.tiers[i].kind);
    EXPECT_EQ(a.tiers[i].bytes, b.tiers[i].bytes);
    EXPECT_EQ(a.tiers[i].percent, b.tiers[i].percent);
    EXPECT_EQ(a.tiers[i].nodes, b.tiers[i].nodes);
    EXPECT_EQ(a.tiers[i].huge_pages, b.tiers[i].huge_pages);
    EXPECT_EQ(a.tiers[i].column, b.tiers[i].column);
    EXPECT_EQ(a.tiers[i].read_gbps, b.tiers[i].read_gbps);
    EXPECT_EQ(a.tiers[i].write_gbps, b.tiers[i].write_gbps);
  }
  ASSERT_EQ(a.arenas.size(), b.arenas.size());
  for (size_t i = 0; i < a.arenas.size(); ++i) {
    EXPECT_EQ(a.arenas[i].name, b.arenas[i].name);
    EXPECT_EQ(a.arenas[i].page_bytes, b.arenas[i].page_bytes);
    EXPECT_EQ(a.arenas[i].block_tokens, b.arenas[i].block_tokens);
    EXPECT_EQ(a.arenas[i].planes, b.arenas[i].planes);
    EXPECT_EQ(a.arenas[i].columns, b.arenas[i].columns);
    EXPECT_EQ(a.arenas[i].pages, b.arenas[i].pages);
    EXPECT_EQ(a.arenas[i].weight, b.arenas[i].weight);
    EXPECT_EQ(a.arenas[i].least_percent, b.arenas[i].least_percent);
    EXPECT_EQ(a.arenas[i].integrity, b.arenas[i].integrity);
    EXPECT_EQ(a.arenas[i].scrub_pages_per_second, b.arenas[i].scrub_pages_per_second);
    EXPECT_EQ(a.arenas[i].mode, b.arenas[i].mode);
    EXPECT_EQ(a.arenas[i].owner, b.arenas[i].owner);
    EXPECT_EQ(a.arenas[i].group, b.arenas[i].group);
    EXPECT_EQ(a.arenas[i].bytes, b.arenas[i].bytes);
    EXPECT_EQ(a.arenas[i].fingerprint, b.arenas[i].fingerprint);
  }
}

const char kEverything[] = R"([daemon]
socket_dir = "/tmp/somewhere"
socket_group = "kv"
period_ms = 25
copy_workers = 3
prefault = false
lock_memory = "always"
state_dir = "/tmp/state"
log_level = "debug"

[policy]
name = "churn"
profile = "h200-pcie5"
promote = "copies"
move_bytes_per_second = "512MiB"
idle_credit = 0.25
cooldown_ms = 77

[metrics]
listen = ["unix:/tmp/m.sock", "127.0.0.1:9713", "[::]:9714"]
socket_group = "watch"
allow_remote = true

[[tier]]
name = "hbm0"
kind = "emulated-hbm"
bytes = "64MiB"
column = 0
read_gbps = 4321.25
write_gbps = 55.65

[[tier]]
name = "dram"
bytes = 1073741824
node = 2
huge_pages = "hugetlb"

[[tier]]
name = "cxl"
kind = "cxl"
bytes = "12.5%"
nodes = [3, 1]

[[memory]]
node = 3
kind = "cxl"
read_gbps = 25.5
write_gbps = 20
latency_ns = 250

[[memory]]
of_kind = "nvm"
use = false

[[arena]]
name = "one"
page_bytes = "2501KiB"
block_tokens = 64
planes = 41
columns = 2
pages = 17
weight = 3
least_percent = 12.5
integrity = "all"
scrub_pages_per_second = 7
mode = "0640"
owner = "root"
group = "0"
bytes = { hbm0 = "32MiB", dram = "100MiB" }
fingerprint = "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F"

[[arena]]
name = "two"
)";

TEST(Config, EveryKeyIsRead) {
  const auto config = parse_config(kEverything, "all.toml");
  ASSERT_TRUE(config.has_value()) << config.error().text;
  EXPECT_EQ(config->socket_dir, "/tmp/somewhere");
  EXPECT_EQ(config->socket_group, "kv");
  EXPECT_EQ(config->period_ms, 25u);
  EXPECT_EQ(config->copy_workers, 3u);
  EXPECT_FALSE(config->prefault);
  EXPECT_EQ(config->log_level, "debug");
  EXPECT_EQ(config->policy.name, "churn");
  EXPECT_EQ(config->policy.profile, "h200-pcie5");
  EXPECT_EQ(config->policy.promote, "copies");
  EXPECT_EQ(config->policy.move_bytes_per_second, 512u << 20);
  EXPECT_EQ(config->policy.idle_credit, 0.25);
  EXPECT_EQ(config->policy.cooldown_ms, 77u);
  ASSERT_EQ(config->tiers.size(), 3u);
  EXPECT_EQ(config->tiers[0].kind, "emulated-hbm");
  EXPECT_EQ(config->tiers[0].bytes, 64u << 20);
  EXPECT_EQ(config->tiers[0].column, 0);
  EXPECT_EQ(config->tiers[0].read_gbps, 4321.25);
  EXPECT_EQ(config->tiers[1].kind, "numa");
  EXPECT_EQ(config->tiers[1].bytes, 1u << 30);
  EXPECT_EQ(config->tiers[1].nodes, std::vector<uint32_t>{2});
  EXPECT_EQ(config->tiers[1].huge_pages, "hugetlb");
  EXPECT_EQ(config->tiers[2].bytes, 0u);
  EXPECT_EQ(config->tiers[2].percent, 12.5);
  EXPECT_EQ(config->tiers[2].nodes, (std::vector<uint32_t>{3, 1}));
  EXPECT_EQ(config->lock_memory, "always");
  EXPECT_EQ(config->state_dir, "/tmp/state");
  ASSERT_EQ(config->memory.size(), 2u);
  EXPECT_EQ(config->memory[0].node, 3);
  EXPECT_EQ(config->memory[0].kind, MemoryKind::kCxl);
  EXPECT_EQ(config->memory[0].read_gbps, 25.5);
  EXPECT_EQ(config->memory[0].latency_ns, 250);
  EXPECT_TRUE(config->memory[0].use);
  EXPECT_EQ(config->memory[1].of_kind, MemoryKind::kNvm);
  EXPECT_FALSE(config->memory[1].use);
  ASSERT_EQ(config->arenas.size(), 2u);
  EXPECT_EQ(config->arenas[0].page_bytes, 2501u << 10);
  EXPECT_EQ(config->arenas[0].weight, 3u);
  EXPECT_EQ(config->arenas[0].least_percent, 12.5);
  EXPECT_EQ(config->arenas[0].integrity, "all");
  EXPECT_EQ(config->arenas[0].scrub_pages_per_second, 7u);
  EXPECT_EQ(config->arenas[1].integrity, "off");
  EXPECT_EQ(config->arenas[1].weight, 1u);
  EXPECT_EQ(config->arenas[1].least_percent, 0);
  EXPECT_EQ(config->arenas[0].mode, 0640u);
  ASSERT_EQ(config->arenas[0].bytes.size(), 2u);
  ASSERT_TRUE(config->arenas[0].fingerprint.has_value());
  EXPECT_EQ((*config->arenas[0].fingerprint)[31], 0x1f);
  EXPECT_EQ(config->arenas[1].page_bytes, 65536u);
  EXPECT_FALSE(config->arenas[1].fingerprint.has_value());
}

TEST(Config, PrintAndParseGiveTheSameDefaults) {
  const auto config = parse_config(print_config(Config::defaults()), "default.toml");
  ASSERT_TRUE(config.has_value()) << config.error().text;
  expect_same(*config, Config::defaults());
}

TEST(Config, PrintAndParseGiveTheSameOfEverything) {
  const auto config = parse_config(kEverything, "all.toml");
  ASSERT_TRUE(config.has_value());
  const auto again = parse_config(print_config(*config), "printed.toml");
  ASSERT_TRUE(again.has_value()) << again.error().text << "\n" << print_config(*config);
  expect_same(*again, *config);
}

TEST(Config, PrintAndParseKeepStrangeStrings) {
  Config config = Config::defaults();
  config.socket_dir = "/tmp/with \"quotes\" and \\ too";
  config.state_dir = "/all\\ ''''''E \t\"\"\"\" \xd5\x91";
  config.arenas[0].name = "a\"b";
  const auto again = parse_config(print_config(config), "printed.toml");
  ASSERT_TRUE(again.has_value()) << again.error().text;
  expect_same(*again, config);
}

TEST(Config, AnEmptyFileIsTheDefault) {
  const auto config = parse_config("", "empty.toml");
  ASSERT_TRUE(config.has_value()) << config.error().text;
  expect_same(*config, Config::defaults());
}

// ---- bad input: file:line and what was expected ----

struct Bad {
  const char* text;
  int line;
  const char* expected;  ///< words of the error
};

const Bad kBad[] = {
    {"[daemon\n", 1, ""},
    {"x = 1\n", 1, "unknown key x"},
    {"\n\n[deamon]\n", 3, "unknown key deamon"},
    {"daemon = 3\n", 1, "a section [daemon]"},
    {"# caf\u00e9\n[daemon]\nsocket_dir = \"/caf\u00e9\"\n", 3, "byte 0xc3: expected ASCII"},
    {"[daemon]\nperiod_ms = 5\n[~policy]\n", 3, "not TOML"},
    {"tier = 3\n", 1, "sections [[tier]]"},
    {"[arena]\nname = \"a\"\n", 1, "sections [[arena]]"},
    {"[daemon]\nperiod = 3\n", 2, "unknown key daemon.period; expected one of: "},
    {"[daemon]\nperiod_ms = \"10\"\n", 2, "daemon.period_ms = '10': expected an integer from 1 to 1000"},
    {"[daemon]\nperiod_ms = 0\n", 2, "an integer from 1 to 1000"},
    {"[daemon]\nperiod_ms = 1001\n", 2, "an integer from 1 to 1000"},
    {"[daemon]\nperiod_ms = 1.5\n", 2, "an integer"},
    {"[daemon]\ncopy_workers = -1\n", 2, "an integer from 1 to 64"},
    {"[daemon]\ncopy_workers = 9223372036854775807\n", 2, "an integer from 1 to 64"},
    {"[daemon]\nprefault = 1\n", 2, "true or false"},
    {"[daemon]\nsocket_dir = 1\n", 2, "a string"},
    {"[daemon]\nlog_level = \"loud\"\n", 2, "one of \"debug\", \"info\", \"warn\", \"error\""},
    {"[policy]\nname = \"best\"\n", 2, "one of \"balance\", \"off\", \"churn\""},
    {"[policy]\nprofile = \"gh300\"\n", 2, "one of \"gh200\""},
    {"[policy]\npromote = \"offer\"\n", 2, "offers"},
    {"[policy]\nmove_bytes_per_second = \"1KiB\"\n", 2, "a size such as"},
    {"[policy]\nidle_credit = -0.5\n", 2, "a number from 0 to 16"},
    {"[policy]\nidle_credit = 17\n", 2, "a number from 0 to 16"},
    {"[policy]\nidle_credit = nan\n", 2, "a number from 0 to 16"},
    {"[policy]\ndead_band = 0.1\n", 2, "unknown key policy.dead_band"},
    {"[policy]\ncooldown_ms = -5\n", 2, "an integer from 0"},
    {"[[tier]]\nbytes = \"1GiB\"\n", 1, "a tier needs a name"},
    {"[[tier]]\nname = \"a-name-of-24-bytes-xxxxx\"\nbytes = \"1GiB\"\n", 1, "a name of 1 to 23 bytes"},
    {"[[tier]]\nname = \"t\"\n", 1, "needs bytes"},
    {"[[tier]]\nname = \"t\"\nbytes = \"many\"\n", 3, "a size such as"},
    {"[[tier]]\nname = \"t\"\nbytes = -1\n", 3, "a size such as"},
    {"[[tier]]\nname = \"t\"\nbytes = 1000\n", 3, "from 1048576 to"},
    {"[[tier]]\nname = \"t\"\nbytes = \"1000TiB\"\n", 3, "from 1048576 to"},
    {"[[tier]]\nname = \"t\"\nbytes = \"99999999999999999TiB\"\n", 3, "a size such as"},
    {"[[tier]]\nname = \"t\"\nkind = \"magic\"\nbytes = \"1GiB\"\n", 3, "one of \"numa\", \"emulated-hbm\""},
    {"[[tier]]\nname = \"t\"\nkind = \"cuda\"\nbytes = \"1GiB\"\nnode = 0\n", 1, "a GPU's UUID"},
    {"[[tier]]\nname = \"t\"\nkind = \"cuda\"\nbytes = \"1GiB\"\ndevice = -1\n", 5, "0 to 1023"},
    {"[[tier]]\nname = \"t\"\nkind = \"cuda\"\nbytes = \"1GiB\"\ndevice = \"\"\n", 5, "a GPU's UUID"},
    {"[[tier]]\nname = \"t\"\nkind = \"cuda\"\nbytes = \"1GiB\"\nwithout_device = \"cry\"\n", 5, "leave-out"},
    {"[[tier]]\nname = \"t\"\nkind = \"numa\"\nbytes = \"1GiB\"\ndevice = 0\n", 5, "unknown key tier.device"},
    {"[cuda]\ndriver = 5\n", 2, "a string"},
    {"[cuda]\nquarantine_ms = 0\n", 2, "1 to 600000"},
    {"[cuda]\npeers = \"all\"\n", 2, "true or false"},
    {"[cuda]\nfan = 1\n", 2, "unknown key cuda.fan"},
    {"metrics = 1\n", 1, "a section [metrics]"},
    {"[metrics]\nlisten = \"unix:x\"\n", 2, "a list of up to 8 places"},
    {"[metrics]\nlisten = [1]\n", 2, "a list of up to 8 places"},
    {"[metrics]\nlisten = [\"a:1\", \"a:1\", \"a:1\", \"a:1\", \"a:1\", \"a:1\", \"a:1\", \"a:1\", "
     "\"a:1\"]\n",
     2, "up to 8"},
    {"[metrics]\nlisten = [\n\"unix:x\",\n\"localhost:9713\"]\n", 4,
     "\"localhost:9713\" is no place to listen"},
    {"[metrics]\nlisten = [\"0.0.0.0:9713\"]\n", 2, "or allow_remote = true"},
    {"[metrics]\nallow_remote = 1\n", 2, "true or false"},
    {"[metrics]\nport = 1\n", 2, "unknown key metrics.port"},
    {"[[tier]]\nname = \"t\"\nbytes = \"0%\"\n", 3, "above 0% and up to 100%"},
    {"[[tier]]\nname = \"t\"\nbytes = \"101%\"\n", 3, "above 0% and up to 100%"},
    {"[[tier]]\nname = \"t\"\nbytes = \"1e%\"\n", 3, "above 0% and up to 100%"},
    {"[[tier]]\nname = \"t\"\nbytes = \"%\"\n", 3, "above 0% and up to 100%"},
    {"[[tier]]\nname = \"t\"\nbytes = \"1GiB\"\nnodes = []\n", 4, "a list of NUMA nodes"},
    {"[[tier]]\nname = \"t\"\nbytes = \"1GiB\"\nnodes = [1, 1]\n", 4, "named once"},
    {"[[tier]]\nname = \"t\"\nbytes = \"1GiB\"\nnodes = [1024]\n", 4, "each from 0 to 1023"},
    {"[[tier]]\nname = \"t\"\nbytes = \"1GiB\"\nnode = 0\nnodes = [1]\n", 5, "either node or nodes"},
    {"[[tier]]\nname = \"t\"\nbytes = \"1GiB\"\nhuge_pages = \"1G\"\n", 4, "one of \"auto\", \"hugetlb\""},
    {"[daemon]\ntiers = \"discovered\"\n[[tier]]\nname = \"t\"\nbytes = \"1GiB\"\n", 3,
     "expected one of the two"},
    {"[daemon]\nlock_memory = true\n", 2, "a string"},
    {"[[memory]]\nkind = \"cxl\"\n", 1, "either node = N or of_kind"},
    {"[[memory]]\nnode = 1\nof_kind = \"cxl\"\n", 1, "either node = N or of_kind"},
    {"[[memory]]\nnode = -1\n", 2, "an integer from 0 to 1023"},
    {"[[memory]]\nnode = 1\nkind = \"ram\"\n", 3, "one of \"dram\""},
    {"[[memory]]\nnode = 1\nlatency_ns = -2\n", 3, "a number from 0"},
    {"[[tier]]\nname = \"t\"\nbytes = \"1GiB\"\nnode = -2\n", 4, "an integer from -1 to 1023"},
    {"[[tier]]\nname = \"t\"\nbytes = \"1GiB\"\ncolumn = 8\n", 4, "an integer from -1 to 7"},
    {"[[tier]]\nname = \"t\"\nbytes = \"1GiB\"\nread_gbps = -1\n", 4, "a number from 0"},
    {"[[tier]]\nname = \"t\"\nbytes = \"1GiB\"\nspeed = 1\n", 4, "unknown key tier.speed"},
    {"[[tier]]\nname = \"t\"\nbytes = \"1GiB\"\n[[tier]]\nname = \"t\"\nbytes = \"1GiB\"\n", 4,
     "a second tier \"t\""},
    {"[[arena]]\npages = 3\n", 1, "an arena needs a name of 1 to 63 bytes"},
    {"[[arena]]\nname = \"a\"\npage_bytes = 16000\n", 3, "from 16384 to 67108864"},
    {"[[arena]]\nname = \"a\"\npage_bytes = \"65MiB\"\n", 3, "from 16384 to 67108864"},
    {"[[arena]]\nname = \"a\"\npage_bytes = 65792\n", 3, "a multiple of 512"},
    {"[[arena]]\nname = \"a\"\nplanes = 3\n", 3, "a divisor of page_bytes (65536)"},
    {"[[arena]]\nname = \"a\"\nplanes = 0\n", 3, "an integer from 1"},
    {"[[arena]]\nname = \"a\"\nblock_tokens = 0\n", 3, "an integer from 1"},
    {"[[arena]]\nname = \"a\"\ncolumns = 9\n", 3, "an integer from 1 to 8"},
    {"[[arena]]\nname = \"a\"\npages = 0\n", 3, "an integer from 1"},
    {"[[arena]]\nname = \"a\"\npages = 268435457\n", 3, "an integer from 1 to 268435456"},
    {"[[arena]]\nname = \"a\"\nweight = 0\n", 3, "an integer from 1 to 1000"},
    {"[[arena]]\nname = \"a\"\nweight = 1001\n", 3, "an integer from 1 to 1000"},
    {"[[arena]]\nname = \"a\"\nleast_percent = -1\n", 3, "a number from 0 to 100"},
    {"[[arena]]\nname = \"a\"\nleast_percent = 100.5\n", 3, "a number from 0 to 100"},
    {"[[arena]]\nname = \"a\"\nintegrity = \"some\"\n", 3, "one of \"off\", \"moves\", \"all\""},
    {"[[arena]]\nname = \"a\"\nscrub_pages_per_second = -1\n", 3, "an integer from 0 to 1000000"},
    {"[[arena]]\nname = \"a\"\nmode = 0o660\n", 3, "a string"},
    {"[[arena]]\nname = \"a\"\nmode = \"rw\"\n", 3, "an octal mode"},
    {"[[arena]]\nname = \"a\"\nmode = \"0888\"\n", 3, "an octal mode"},
    {"[[arena]]\nname = \"a\"\nmode = \"00660\"\n", 3, "an octal mode"},
    {"[[arena]]\nname = \"a\"\nbytes = \"1GiB\"\n", 3, "a table"},
    {"[[arena]]\nname = \"a\"\nbytes = { hbm = \"1GiB\", floppy = \"1MiB\" }\n", 3,
     "wants bytes of tier \"floppy\""},
    {"[[arena]]\nname = \"a\"\nbytes = { hbm = \"lots\" }\n", 3, "a size such as"},
    {"[[arena]]\nname = \"a\"\nfingerprint = \"abcd\"\n", 3, "64 hexadecimal digits"},
    {"[[arena]]\nname = \"a\"\nfingerprint = "
     "\"g00102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f\"\n",
     3, "64 hexadecimal digits"},
    {"[[arena]]\nname = \"a\"\n[[arena]]\nname = \"a\"\n", 3, "a second arena \"a\""},
    {"[[arena]]\nname = \"a\"\ntier = 1\n", 3, "unknown key arena.tier"},
    {"[daemon]\nperiod_ms = 1\nperiod_ms = 2\n", 3, ""},
};

TEST(Config, BadInputNamesFileLineAndWhatWasExpected) {
  for (const Bad& bad : kBad) {
    const auto config = parse_config(bad.text, "kv.toml");
    ASSERT_FALSE(config.has_value()) << "taken as good:\n" << bad.text;
    const std::string& text = config.error().text;
    EXPECT_EQ(text.rfind("kv.toml:" + std::to_string(bad.line) + ": ", 0), 0u) << text << "\nof:\n"
                                                                               << bad.text;
    EXPECT_NE(text.find(bad.expected), std::string::npos) << text << "\nshould say: " << bad.expected;
    EXPECT_TRUE(config.error().code == Code::kInvalid || config.error().code == Code::kLimit);
  }
}

TEST(Config, AsManyTiersAndArenasAsTheLimitsAllow) {
  std::string text;
  for (uint32_t i = 0; i < KVT_MAX_TIERS; ++i)
    text += "[[tier]]\nname = \"t" + std::to_string(i) + "\"\nbytes = \"1GiB\"\n";
  for (uint32_t i = 0; i < KVT_MAX_ARENAS; ++i) text += "[[arena]]\nname = \"a" + std::to_string(i) + "\"\n";
  const auto most = parse_config(text, "kv.toml");
  ASSERT_TRUE(most.has_value()) << most.error().text;
  EXPECT_EQ(most->tiers.size(), KVT_MAX_TIERS);
  EXPECT_EQ(most->arenas.size(), KVT_MAX_ARENAS);
  EXPECT_NE(parse_config(text + "[[tier]]\nname = \"more\"\nbytes = \"1GiB\"\n", "kv.toml")
                .error()
                .text.find("more than 8 tiers"),
            std::string::npos);
  EXPECT_NE(
      parse_config(text + "[[arena]]\nname = \"more\"\n", "kv.toml").error().text.find("more than 64 arenas"),
      std::string::npos);
}

TEST(Config, AFileThatIsNotThereIsNamed) {
  const auto config = load_config("/nowhere/kv.toml");
  ASSERT_FALSE(config.has_value());
  EXPECT_NE(config.error().text.find("/nowhere/kv.toml"), std::string::npos);
}

TEST(Config, LoadsAFile) {
  const std::string path = testing::TempDir() + "kvt-config-test-" + std::to_string(::getpid()) + ".toml";
  std::ofstream(path) << "[daemon]\nperiod_ms = 7\n";
  const auto config = load_config(path);
  std::remove(path.c_str());
  ASSERT_TRUE(config.has_value()) << config.error().text;
  EXPECT_EQ(config->period_ms, 7u);
}

TEST(ChangedKeys, AreNamedWhateverTheyAre) {
  const Config before = Config::defaults();
  EXPECT_TRUE(changed_keys(before, before).empty());
  Config after = before;
  after.log_level = "debug";
  after.period_ms = 20;
  after.policy.cooldown_ms = 5;
  after.tiers[1].bytes *= 2;
  after.arenas[0].weight = 7;
  ArenaConfig more;
  more.name = "more";
  after.arenas.push_back(more);
  const std::vector<std::string> changed = changed_keys(before, after);
  const std::set<std::string> keys(changed.begin(), changed.end());
  for (const char* const key : {"daemon.log_level", "daemon.period_ms", "policy.cooldown_ms",
                                "tier 'dram': bytes", "arena 'default': weight", "arena 'more'"})
    EXPECT_TRUE(keys.contains(key)) << key;
  EXPECT_FALSE(keys.contains("daemon.copy_workers"));
  EXPECT_EQ(changed_keys(after, before), changed) << "it is the same the other way round";
  after = before;
  std::swap(after.tiers[0], after.tiers[1]);
  EXPECT_EQ(changed_keys(before, after), std::vector<std::string>{"order of tiers"});
}

TEST(ChangedKeys, SomeAreTakenByARunningDaemon) {
  for (const char* const key : {"daemon.log_level", "policy.name", "policy.cooldown_ms",
                                "arena 'default': weight", "arena 'default': least_percent"})
    EXPECT_TRUE(is_live_key(key)) << key;
  for (const char* const key : {"daemon.period_ms", "policy.profile", "arena 'default'",
                                "arena 'default': mode", "tier 'hbm': bytes", "tier 'weight'"})
    EXPECT_FALSE(is_live_key(key)) << key;
}

TEST(ChangedPolicy, IsCheckedAsInAFile) {
  const PolicyConfig now;
  const auto changed = changed_policy(now, "name = \"off\"\nmove_bytes_per_second = \"1GiB\"\n");
  ASSERT_TRUE(changed.has_value()) << changed.error().text;
  EXPECT_EQ(changed->name, "off");
  EXPECT_EQ(changed->move_bytes_per_second, 1ull << 30);
  EXPECT_EQ(changed->cooldown_ms, now.cooldown_ms);
  for (const char* const wrong :
       {"name = \"fast\"", "cooldown_ms = 60001", "cooldown_ms = 0.5", "speed = 1",
        "[policy]\nname = \"off\"", "name = ", "move_bytes_per_second = \"1KiB\"", "idle_credit = nan"}) {
    const auto refused = changed_policy(now, wrong);
    ASSERT_FALSE(refused.has_value()) << wrong;
    EXPECT_EQ(refused.error().code, Code::kInvalid) << wrong;
  }
}

TEST(ArenaOf, IsCheckedAsInAFile) {
  const Config config = Config::defaults();
  const auto arena = arena_of(config, {{"name", "chat"},
                                       {"page_bytes", "128KiB"},
                                       {"pages", "100"},
                                       {"mode", "0660"},
                                       {"owner", "1000"},
                                       {"least_percent", "12.5"},
                                       {"weight", "3"},
                                       {"bytes.hbm", "0"},
                                       {"bytes.dram", "1073741824"}});
  ASSERT_TRUE(arena.has_value()) << arena.error().text;
  EXPECT_EQ(arena->name, "chat");
  EXPECT_EQ(arena->page_bytes, 128u << 10);
  EXPECT_EQ(arena->pages, 100u);
  EXPECT_EQ(arena->mode, 0660u);
  EXPECT_EQ(arena->owner, "1000");
  EXPECT_EQ(arena->least_percent, 12.5);
  EXPECT_EQ(arena->weight, 3u);
  using Bytes = std::vector<std::pair<std::string, uint64_t>>;
  EXPECT_EQ(arena->bytes, (Bytes{{"dram", 1u << 30}, {"hbm", 0}}));
  EXPECT_EQ(arena_of(config, {{"name", "a"}})->block_tokens, 16u) << "what is not said is the default";
  const std::pair<std::map<std::string, std::string>, const char*> wrong[] = {
      {{{"name", ""}}, "1 to 63 bytes"},
      {{}, "1 to 63 bytes"},
      {{{"name", "a"}, {"weight", "0"}}, "arena.weight = '0': expected an integer from 1 to 1000"},
      {{{"name", "a"}, {"weight", "3x"}}, "an integer from 1 to 1000"},
      {{{"name", "a"}, {"weight", ""}}, "an integer from 1 to 1000"},
      {{{"name", "a"}, {"least_percent", "101"}}, "a number from 0 to 100"},
      {{{"name", "a"}, {"least_percent", "nan"}}, "a number from 0 to 100"},
      {{{"name", "a"}, {"page_bytes", "1GiB"}}, "a size such as"},
      {{{"name", "a"}, {"mode", "rw"}}, "an octal mode"},
      {{{"name", "a"}, {"integrity", "some"}}, "one of \"off\""},
      {{{"name", "a"}, {"bytes", "{}"}}, "bytes.TIER"},
      {{{"name", "a"}, {"bytes.cxl", "1MiB"}}, "tier \"cxl\", which is not there"},
      {{{"name", "a"}, {"speed", "1"}}, "unknown key arena.speed; expected one of: block_tokens"},
      {{{"name", "a\tb"}}, "printable ASCII"},
      {{{"name", "\xef\xbb\xbf"}}, "printable ASCII"},
  };
  for (const auto& [values, words] : wrong) {
    const auto refused = arena_of(config, values);
    ASSERT_FALSE(refused.has_value()) << words;
    EXPECT_EQ(refused.error().code, Code::kInvalid);
    EXPECT_NE(refused.error().text.find(words), std::string::npos) << refused.error().text;
  }
}

TEST(ParseBytes, Table) {
  const std::pair<const char*, uint64_t> good[] = {
      {"0", 0},           {"512", 512},         {"512B", 512},      {"64KiB", 65536},
      {"64K", 65536},     {"3MiB", 3u << 20},   {"3M", 3u << 20},   {"2GiB", 2ull << 30},
      {"2G", 2ull << 30}, {"1TiB", 1ull << 40}, {"1T", 1ull << 40}, {"16777215TiB", 16777215ull << 40}};
  for (const auto& [text, bytes] : good) {
    const auto parsed = parse_bytes(text);
    ASSERT_TRUE(parsed.has_value()) << text;
    EXPECT_EQ(*parsed, bytes) << text;
  }
  for (const char* text : {"", "KiB", "-1", "1.5GiB", "64 KiB", "64kib", "1KB", "16777216TiB",
                           "99999999999999999999", " 1", "1 "})
    EXPECT_FALSE(parse_bytes(text).has_value()) << text;
}

TEST(Profiles, AreNamedAndFound) {
  for (const char* name : {"gh200", "h200-pcie5", "h100-pcie5", "paper"}) {
    const auto profile = find_profile(name);
    ASSERT_TRUE(profile.has_value()) << name;
    EXPECT_GT(profile->hbm.read_gbps, profile->host.read_gbps);
    EXPECT_NE(profile_names().find(name), std::string::npos);
  }
  EXPECT_FALSE(find_profile("").has_value());
}

}  // namespace
}  // namespace kvt
