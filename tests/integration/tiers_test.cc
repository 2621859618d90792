// SPDX-License-Identifier: Apache-2.0
//
// Tiers that come and go while a real daemon serves its clients.
#include <gtest/gtest.h>
#include <signal.h>

#include <fstream>
#include <nlohmann/json.hpp>

#include "tests/support/client.h"
#include "tests/support/daemon.h"

namespace kvt::test {
namespace {

using nlohmann::json;

json ask(const Daemon& daemon, const json& request) {
  return json::parse(daemon.control(request.dump()), nullptr, false);
}
json add(const Daemon& daemon, const std::string& name, const json& set) {
  return ask(daemon, {{"command", "tier-add"}, {"tier", name}, {"set", set}});
}
json remove(const Daemon& daemon, const std::string& name) {
  return ask(daemon, {{"command", "tier-remove"}, {"tier", name}});
}
bool is_ok(const json& answer) { return answer.is_object() && answer.value("ok", false); }
std::string error(const json& answer) { return answer.value("error", std::string("it was done")); }

using Names = std::vector<std::string>;
Names names(const Daemon& daemon) {
  Names all;
  const json answer = ask(daemon, {{"command", "tiers"}});
  for (const json& tier : answer.at("tiers")) all.push_back(tier.at("name"));
  return all;
}

json chat_in(const char* tier) {
  return {{"command", "arena-create"},
          {"arena", "chat"},
          {"set",
           {{"page_bytes", "32KiB"},
            {"bytes.hbm0", 0},
            {"bytes.dram", 0},
            {std::string("bytes.") + tier, "4MiB"}}}};
}

/// Publishes pages under keys that nobody has used before.
void use(const Daemon& daemon) {
  static uint64_t next_key = 1000;
  kvt_attach_args args = attach_args(daemon.folder());
  args.arena = "chat";
  Client client(args);
  ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
  for (uint32_t i = 0; i < 50; ++i) {
    const kvt_key key = key_of(next_key++);
    const kvt_page page = publish_page(client, key, client.geometry().page_bytes);
    ASSERT_NE(page, KVT_NO_PAGE) << kvt_last_error();
    EXPECT_EQ(verify_page(client, page, key, client.geometry().page_bytes), 0u);
  }
}

TEST(Tiers, AddedUsedEmptiedAndRemoved) {
  World world;
  world.keep = true;
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  Client client(daemon);  // of an arena that is there, all the time
  ASSERT_EQ(client.code(), KVT_OK) << kvt_last_error();
  const uint64_t bytes = client.geometry().page_bytes;
  const kvt_page page = publish_page(client, key_of(1), bytes);

  const json added = add(daemon, "spare", {{"bytes", "8MiB"}, {"node", 0}, {"read_gbps", 1}});
  ASSERT_TRUE(is_ok(added)) << added;
  EXPECT_EQ(added.at("tiers").at(0).at("bytes"), 8 << 20);
  EXPECT_EQ(added.at("tiers").at(0).at("unassigned_bytes"), 8 << 20);
  EXPECT_EQ(names(daemon), (Names{"hbm0", "dram", "spare"}));
  // What there is, written down: the arena has nothing of it.
  const json shown = ask(daemon, {{"command", "config"}});
  bool is_named = false;
  for (const json& value : shown.at("values"))
    is_named = is_named || (value.at("name") == "default" && value.at("key") == "bytes" &&
                            value.at("value") == json{{"spare", "0"}});
  EXPECT_TRUE(is_named) << shown;
  const json faster = add(daemon, "faster", {{"bytes", "1MiB"}, {"read_gbps", 9999}});
  ASSERT_TRUE(is_ok(faster)) << faster;
  EXPECT_EQ(names(daemon), (Names{"faster", "hbm0", "dram", "spare"})) << "the fastest first";
  ASSERT_TRUE(is_ok(remove(daemon, "faster")));

  ASSERT_TRUE(is_ok(ask(daemon, chat_in("spare"))));
  use(daemon);
  EXPECT_TRUE(mentions(error(remove(daemon, "spare")), {"\"spare\" stays", "\"chat\" (4 MiB)", "drain"}));
  EXPECT_EQ(verify_page(client, page, key_of(1), bytes), 0u);

  // What arenas have of it outlives the daemon, and the rest of it does not: the configuration does not name it.
  ASSERT_TRUE(daemon.restart());
  EXPECT_EQ(names(daemon), (Names{"hbm0", "dram", "spare"}));
  EXPECT_EQ(ask(daemon, {{"command", "tiers"}}).at("tiers").at(2).at("unassigned_bytes"), 0);
  use(daemon);
  ASSERT_TRUE(is_ok(ask(daemon, {{"command", "arena-delete"}, {"arena", "chat"}})));
  const json removed = remove(daemon, "spare");
  ASSERT_TRUE(is_ok(removed)) << removed;
  EXPECT_EQ(removed.at("configured"), false);
  EXPECT_EQ(names(daemon), (Names{"hbm0", "dram"}));
  ASSERT_TRUE(eventually([&] { return kvt_flush(client) == KVT_OK; })) << kvt_last_error();
  EXPECT_EQ(verify_page(client, page, key_of(1), bytes), 0u);
  EXPECT_EQ(daemon.number("quiesce", "/arenas/0/audit/leaked"), 0);
}

TEST(Tiers, SayWhyNot) {
  World world;
  world.prefault = true;
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  EXPECT_EQ(error(add(daemon, "dram", {{"bytes", "1MiB"}})), "there is a tier \"dram\"");
  EXPECT_TRUE(mentions(error(add(daemon, "a", {{"bytes", "1MiB"}, {"nodes", "0,999"}})), {"NUMA node 999"}));
  EXPECT_TRUE(
      mentions(error(add(daemon, "a", {{"bytes", "1MiB"}, {"nodes", "zero"}})), {"tier.nodes", "[0, 2]"}));
  EXPECT_TRUE(mentions(error(add(daemon, "a", {{"bytes", "60TiB"}})), {"MiB can be had"}));
  EXPECT_TRUE(mentions(error(add(daemon, "a", {{"bytes", "1MiB"}, {"size", 1}})), {"size"}));
  EXPECT_TRUE(mentions(error(add(daemon, "a", {{"bytes", "1MiB"}, {"kind", "nvm"}})), {"kind nvm"}));
  EXPECT_TRUE(mentions(error(add(daemon, std::string(24, 'a'), {{"bytes", "1MiB"}})), {"1 to 23 bytes"}));
  EXPECT_TRUE(mentions(error(ask(daemon, {{"command", "tier-add"}})), {"name of a tier"}));
  EXPECT_TRUE(mentions(error(ask(daemon, {{"command", "tier-remove"}})), {"name of a tier"}));
  EXPECT_EQ(error(remove(daemon, "a")), "there is no tier \"a\"");
  EXPECT_TRUE(mentions(error(remove(daemon, "dram")), {"\"dram\" stays", "\"default\""}));
  for (int i = 2; i < 8; ++i)
    ASSERT_TRUE(is_ok(add(daemon, "t" + std::to_string(i), {{"bytes", "1MiB"}}))) << i;
  EXPECT_EQ(error(add(daemon, "t8", {{"bytes", "1MiB"}})), "8 tiers are all that can be");
  EXPECT_EQ(names(daemon).size(), 8u);
}

/// Whether a reload or the next start makes it again: the file as it was read last says it, whoever has made what there is.
TEST(Tiers, ConfiguredIsWhatTheFileSaysNow) {
  World world;
  world.more = "bytes = { hbm0 = \"1MiB\", dram = \"8MiB\" }\n";
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  int reloads = 0;
  const auto reload = [&](const std::string& more) {
    std::ofstream(daemon.folder() + "/kvtierd.toml") << world.toml() << more;
    daemon.signal(SIGHUP);
    ++reloads;
    return eventually([&] {
      int said = 0;
      for (size_t at = 0; (at = daemon.log().find("was read again", at)) != std::string::npos; ++at) ++said;
      return said == reloads;
    });
  };
  const auto source_of = [&](const std::string& name, const std::string& key) {
    const json shown = ask(daemon, {{"command", "config"}});
    for (const json& value : shown.at("values"))
      if (value.at("name") == name && value.at("key") == key) return value.at("source").get<std::string>();
    return std::string("not shown");
  };
  const std::string chat =
      "[[arena]]\nname = \"chat\"\npage_bytes = \"32KiB\"\nbytes = { dram = \"4MiB\" }\n";
  const std::string far = "[[tier]]\nname = \"far\"\nbytes = \"8MiB\"\n";

  // Of the file, and not any more.
  ASSERT_TRUE(reload(chat + far)) << daemon.log();
  ASSERT_TRUE(eventually([&] { return names(daemon).size() == 3; })) << daemon.log();
  ASSERT_TRUE(eventually([&] { return daemon.log().find("arena \"chat\" is there") != std::string::npos; }));
  EXPECT_NE(source_of("far", "name").find("kvtierd.toml:"), std::string::npos) << source_of("far", "name");
  EXPECT_EQ(source_of("hbm0", "read_gbps"), "machine");
  ASSERT_TRUE(reload("")) << daemon.log();
  EXPECT_EQ(source_of("far", "bytes"), "kept");
  EXPECT_EQ(source_of("chat", "name"), "kept");
  const json deleted = ask(daemon, {{"command", "arena-delete"}, {"arena", "chat"}});
  EXPECT_EQ(deleted.at("configured"), false) << deleted;
  const json removed = remove(daemon, "far");
  EXPECT_EQ(removed.at("configured"), false) << removed;

  // What is taken while it runs.
  world.more += "weight = 3\n";
  ASSERT_TRUE(reload("")) << daemon.log();
  EXPECT_NE(source_of("default", "weight").find("kvtierd.toml:"), std::string::npos)
      << source_of("default", "weight");
  world.more = world.more.substr(0, world.more.find("weight"));
  ASSERT_TRUE(reload("")) << daemon.log();
  EXPECT_EQ(source_of("default", "weight"), "default");

  // Of an operator, and then of the file, which says otherwise.
  ASSERT_TRUE(is_ok(add(daemon, "far", {{"bytes", "4MiB"}})));
  EXPECT_EQ(source_of("far", "name"), "tier add");
  ASSERT_TRUE(reload(far)) << daemon.log();
  EXPECT_NE(daemon.log().find("SIGHUP: tier 'far' is there already; what the file says of it waits"),
            std::string::npos)
      << daemon.log();
  EXPECT_EQ(source_of("far", "bytes"), "kept");
  EXPECT_NE(source_of("far", "name").find("kvtierd.toml:"), std::string::npos) << source_of("far", "name");
  EXPECT_EQ(remove(daemon, "far").at("configured"), true);
}

TEST(Tiers, AReloadAddsThemBeforeArenas) {
  World world;
  Daemon daemon(world);
  ASSERT_TRUE(daemon.ok());
  const auto reload = [&](const std::string& more) {
    std::ofstream(daemon.folder() + "/kvtierd.toml") << world.toml() << more;
    daemon.signal(SIGHUP);
  };
  const auto has_said = [&](const std::string& words) {
    return eventually([&] { return daemon.log().find(words) != std::string::npos; });
  };
  const std::string spare = "[[tier]]\nname = \"spare\"\nbytes = \"8MiB\"\nread_gbps = 2\n";
  reload("bytes = { spare = 0 }\n" + spare +
         "[[arena]]\nname = \"chat\"\npage_bytes = \"32KiB\"\nbytes = { hbm0 = 0, dram = 0, spare = \"4MiB\" "
         "}\n");
  ASSERT_TRUE(has_said("tier \"spare\" is there: 8 MiB")) << daemon.log();
  ASSERT_TRUE(has_said("arena \"chat\" is there: ")) << daemon.log();
  use(daemon);
  const json configured = ask(daemon, {{"command", "config"}});
  EXPECT_NE(configured.dump().find("kvtierd.toml:"), std::string::npos);

  reload("");
  EXPECT_TRUE(has_said("SIGHUP: tier 'spare' is not named any more; it stays. kvtierctl tier remove 'spare'"))
      << daemon.log();
  EXPECT_EQ(names(daemon), (Names{"hbm0", "dram", "spare"}));
  reload("bytes = { spare = 0, far = 0 }\n" + spare +
         "[[tier]]\nname = \"far\"\nbytes = \"1MiB\"\nnode = 999\n");
  EXPECT_TRUE(has_said("SIGHUP: tier 'far' is not added: ")) << daemon.log();
  EXPECT_EQ(names(daemon), (Names{"hbm0", "dram", "spare"}));
}

}  // namespace
}  // namespace kvt::test
