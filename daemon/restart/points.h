// SPDX-License-Identifier: Apache-2.0
//
// Places at which a test can kill or stop the daemon: one at every step of what changes shared state. They are in the
// binary that is shipped, so that what is tested is what runs; without --allow-injection each is one load of a word
// that is never set, and a branch that is never taken.
//
// arm() and the look at the request file are the loop's; reach() is any thread's.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string>

#include "shm/base/result.h"

// name                    where
#define KVT_POINTS(X)                                                                                 \
  X(kAttachSession, "attach.session")     /* the session has its region, and is scanned */            \
  X(kAttachRecorded, "attach.recorded")   /* its slot of the restart state counts */                  \
  X(kAttachStored, "attach.stored")       /* its descriptors have been sent to the store */           \
  X(kAttachBarrier, "attach.barrier")     /* the store has them */                                    \
  X(kAttachGranting, "attach.granting")   /* "a grant may have been sent" is stored, none has been */ \
  X(kAttachGranted, "attach.granted")     /* it has been sent */                                      \
  X(kJoinRecorded, "join.recorded")       /* a further member's slot counts */                        \
  X(kFillNamed, "fill.named")             /* a fresh page is FILLING, and in no magazine */           \
  X(kFillPushed, "fill.pushed")           /* it is in the magazine */                                 \
  X(kSealSealed, "seal.sealed")           /* SEALED, the command not yet taken off the ring */        \
  X(kCommandDone, "command.done")         /* a command has taken effect; the ring's head is behind */ \
  X(kCommandAnswered, "command.answered") /* its answer is posted; the ring's head is behind */       \
  X(kPublishIndexed, "publish.indexed")   /* the index has the key, the row has not */                \
  X(kPublishParent, "publish.parent")     /* the row has the parent */                                \
  X(kPublishKey, "publish.key")           /* the row has the key, without its flag */                 \
  X(kPublishKeyed, "publish.keyed")       /* the flag is set */                                       \
  X(kUnpublishUnindexed, "unpublish.unindexed")                                                       \
  X(kFreeStored, "free.stored")         /* FREE with the next generation, frames not yet in limbo */  \
  X(kEvictEvicting, "evict.evicting")   /* EVICTING, before the fence */                              \
  X(kEvictUnindexed, "evict.unindexed") /* out of the index, still EVICTING */                        \
  X(kMoveReserved, "move.reserved")     /* step 3: the target frame is taken */                       \
  X(kMoveCopied, "move.copied")         /* step 5, in the worker: the bytes are there */              \
  X(kMoveCompleted, "move.completed")   /* step 6: the completion is taken, the row as before */      \
  X(kMovePlaced, "move.placed")         /* step 7: the row names the new frame; not logged */         \
  X(kMoveShadowed, "move.shadowed")     /* step 8: the old frame is the shadow, or leaves */          \
  X(kMoveLogged, "move.logged")         /* step 7: in the change log */                               \
  X(kMoveDemoted, "move.demoted")       /* demotion without a copy: entry stored, shadow not */       \
  X(kLimboEpoch, "limbo.epoch")         /* the epoch is advanced, the frames not yet in limbo */      \
  X(kLimboFreed, "limbo.freed")         /* step 9: a frame is free again */                           \
  X(kOfferMade, "offer.made")                                                                         \
  X(kOfferWithdrawn, "offer.withdrawn") /* the word is cleared; not yet in limbo */                   \
  X(kOfferTaken, "offer.taken")         /* the row names the frame, and so does the offer */          \
  X(kLeaveForgotten, "leave.forgotten") /* a member's slot counts no more; its claims do */           \
  X(kEndTold, "end.told")               /* a session's members can see that it has ended */           \
  X(kEndRecorded, "end.recorded")       /* a session's slot counts no more; its pages are there */    \
  X(kEndFreed, "end.freed")             /* half of its pages have been freed */                       \
  X(kCreateMade, "create.made")         /* of an arena: its memory is there, nobody knows of it */    \
  X(kCreateStored, "create.stored")     /* the store has its descriptors; its slot does not count */  \
  X(kCreateRecorded, "create.recorded") /* its slot counts, nobody can attach yet */                  \
  X(kDeleteRecorded, "delete.recorded") /* its slot counts no more; its descriptors are stored */     \
  X(kDeleteRemoved, "delete.removed")   /* they are not; its memory is mapped */                      \
  X(kAdoptMapped, "adopt.mapped")       /* the regions of an arena are mapped */                      \
  X(kAdoptRows, "adopt.rows")           /* half of the rows have been repaired */                     \
  X(kAdoptIndex, "adopt.index")         /* rows are done, the index is not */                         \
  X(kAdoptEpoch, "adopt.epoch")         /* the epoch is advanced */                                   \
  X(kAdoptDone, "adopt.done")           /* all arenas are adopted, nobody is served yet */

namespace kvt::restart {

enum class Point : uint32_t {
#define KVT_POINT_ENUM(id, name) id,
  KVT_POINTS(KVT_POINT_ENUM)
#undef KVT_POINT_ENUM
};

/// From now on arm() does something. Once, at start, with --allow-injection.
void allow_arming();

/// All names, by the number of the point.
std::span<const char* const> point_names();

/// What is to happen when a point is reached the `after`th time from now: SIGKILL or SIGSTOP to this process.
enum class PointAction : uint8_t { kKill, kStop };
/// kNotFound: no such point; kPermission: allow_arming() has not been called.
Result<void> arm(const std::string& name, PointAction action, uint64_t after);
/// A file with one line, "NAME kill|stop [AFTER]", arms that point and is removed: for points that are reached before
/// anybody can ask. No file: nothing. kInvalid with what was expected.
Result<void> arm_from_file(const std::string& path);

namespace point_detail {
extern std::atomic<uint32_t> armed;  // number of the point, and 1 more; 0: none
void reach(Point point);
}  // namespace point_detail

inline void reach(Point point) {
  if (point_detail::armed.load(std::memory_order_relaxed) != 0) [[unlikely]]
    point_detail::reach(point);
}

}  // namespace kvt::restart
