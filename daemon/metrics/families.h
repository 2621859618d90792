// SPDX-License-Identifier: Apache-2.0
//
// A snapshot as Prometheus' metric families; docs/metrics.md has them all. Pure; thread-safe.
#pragma once

#include <prometheus/metric_family.h>

#include <string>
#include <vector>

#include "daemon/metrics/process.h"
#include "daemon/metrics/snapshot.h"

namespace kvt::metrics {

/// What the exporter counts of itself.
struct ExporterCounts {
  double snapshot_age_seconds = 0;
  uint64_t requests = 0;
  uint64_t connections_dropped = 0;  ///< too slow, or too many
};

std::vector<prometheus::MetricFamily> families(const Snapshot& snapshot, const ProcessSample& process,
                                               const ExporterCounts& exporter);
/// In the text format 0.0.4.
std::string exposition(const std::vector<prometheus::MetricFamily>& families);

}  // namespace kvt::metrics
