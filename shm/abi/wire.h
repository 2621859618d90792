/* SPDX-License-Identifier: Apache-2.0
 *
 * Messages on attach.sock: SOCK_SEQPACKET, one struct a message, native byte order (both ends are on one host).
 *
 *   client                                daemon
 *   HELLO   versions                 ->   WELCOME | REFUSED
 *   ATTACH  arena, geometry, pidfd   ->   GRANT with descriptors | REFUSED
 *   JOIN    token, pidfd             ->   GRANT | REFUSED
 *   RESUME  token, member, pidfd     ->   RESUMED | REFUSED      (a broken connection, same session)
 *   CHUNKS  tier, which              ->   CHUNKS_GRANT with descriptors | REFUSED   (minor 7: device memory again)
 *   DETACH                           ->   DETACHED
 *
 * Nothing is mapped before the versions agree. Identity is SO_PEERCRED; the pidfd must be the sender's own.
 * Descriptors of a GRANT, in order: arena table (read-only), session region, doorbell eventfd; then of each tier, in
 * order, its window: one memfd, or of device memory its chunks where the grant's device_tiers has the tier's bit, and
 * nothing where it has not. Of minor 7 without the last ones, as many as the grant's chunks_given_up says.
 *
 * A struct may be longer in a later minor version, with fields at its end. Who gets a shorter one than it knows takes
 * the rest for zero; it never gets a longer one than the minor version that it said in HELLO or WELCOME has.
 */
#ifndef KVT_SHM_ABI_WIRE_H
#define KVT_SHM_ABI_WIRE_H

#include <stdint.h>

#include "shm/abi/layout.h"

#define KVT_WIRE_MAGIC 0x5754564bu /* "KVTW" */

enum kvt_wire_type {
    KVT_WIRE_HELLO = 1,
    KVT_WIRE_WELCOME = 2,
    KVT_WIRE_ATTACH = 3,
    KVT_WIRE_JOIN = 4,
    KVT_WIRE_RESUME = 5,
    KVT_WIRE_DETACH = 6,
    KVT_WIRE_GRANT = 7,
    KVT_WIRE_RESUMED = 8,
    KVT_WIRE_DETACHED = 9,
    KVT_WIRE_REFUSED = 10,
    KVT_WIRE_CHUNKS = 11,
    KVT_WIRE_CHUNKS_GRANT = 12
};

struct kvt_wire_header {
    uint32_t magic;
    uint16_t type;
    uint16_t bytes; /* of the whole message */
};

struct kvt_wire_hello {
    struct kvt_wire_header header;
    uint16_t abi_major;
    uint16_t abi_minor;
    uint32_t pad;
    uint64_t compat;
    uint64_t incompat;
};

struct kvt_wire_welcome {
    struct kvt_wire_header header;
    uint16_t abi_major;
    uint16_t abi_minor;
    uint32_t daemon_pid;
    uint64_t compat;
    uint64_t incompat;
};

#define KVT_WIRE_READ 1u
#define KVT_WIRE_READ_WRITE 2u

struct kvt_wire_attach {
    struct kvt_wire_header header;
    char arena[KVT_ARENA_NAME_BYTES]; /* 0-terminated */
    uint64_t page_bytes;              /* 0 in a number: whatever the arena has */
    uint32_t block_tokens;
    uint32_t planes;
    uint32_t columns;
    uint32_t column;
    uint32_t access;
    uint32_t members_max;
    uint32_t guarantee_pages;
    uint32_t has_fingerprint;
    uint8_t fingerprint[KVT_FINGERPRINT_BYTES];
    uint32_t pad;
    /* minor 3: the GPU that this process reads and writes pages with */
    uint32_t has_device;
    uint8_t device_uuid[KVT_DEVICE_UUID_BYTES];
};
#define KVT_WIRE_ATTACH_BYTES_MIN 144u

struct kvt_wire_join {
    struct kvt_wire_header header;
    uint8_t token[KVT_SESSION_TOKEN_BYTES];
    uint32_t has_device; /* minor 3, as of ATTACH */
    uint8_t device_uuid[KVT_DEVICE_UUID_BYTES];
};
#define KVT_WIRE_JOIN_BYTES_MIN 24u

struct kvt_wire_resume {
    struct kvt_wire_header header;
    uint8_t token[KVT_SESSION_TOKEN_BYTES];
    uint64_t session_id;
    uint32_t member;
    uint32_t pad;
};

struct kvt_wire_grant {
    struct kvt_wire_header header;
    uint64_t session_id;
    uint32_t member;
    uint32_t windows;
    uint32_t access;
    uint32_t daemon_pid;
    uint8_t token[KVT_SESSION_TOKEN_BYTES];
    uint64_t table_bytes;
    uint64_t session_bytes;
    uint32_t device_tiers; /* minor 3: bit t: the chunks of tier t's window are among the descriptors */
    uint32_t pad;
    uint16_t chunks_given_up[KVT_MAX_TIERS]; /* minor 7: so many of the last are not */
};
#define KVT_WIRE_GRANT_BYTES_MIN 64u
#define KVT_WIRE_GRANT_BYTES_MINOR_3 72u

/* Of device memory that the member was granted: chunks that were given up and are there again. */
struct kvt_wire_chunks { /* CHUNKS, and CHUNKS_GRANT with the descriptors of just these, in order */
    struct kvt_wire_header header;
    uint32_t tier;
    uint32_t first;
    uint32_t count;
    uint32_t pad;
};

struct kvt_wire_empty { /* DETACH, DETACHED, RESUMED */
    struct kvt_wire_header header;
};

enum kvt_wire_status {
    KVT_WIRE_E_PROTOCOL = 1,
    KVT_WIRE_E_VERSION = 2,
    KVT_WIRE_E_NOT_FOUND = 3,
    KVT_WIRE_E_PERMISSION = 4,
    KVT_WIRE_E_MISMATCH = 5,
    KVT_WIRE_E_LIMIT = 6,
    KVT_WIRE_E_FULL = 7,
    KVT_WIRE_E_SYSTEM = 8,
    KVT_WIRE_E_ENDED = 9
};

struct kvt_wire_refused {
    struct kvt_wire_header header;
    uint32_t status;
    uint32_t system_errno;
    char text[256]; /* 0-terminated: what was asked and what the arena has */
};

KVT_ABI_ASSERT(sizeof(struct kvt_wire_header) == 8, "wire");
KVT_ABI_ASSERT(sizeof(struct kvt_wire_hello) == 32, "wire");
KVT_ABI_ASSERT(sizeof(struct kvt_wire_welcome) == 32, "wire");
KVT_ABI_ASSERT(sizeof(struct kvt_wire_attach) == 168, "wire");
KVT_ABI_ASSERT(sizeof(struct kvt_wire_join) == 44, "wire");
KVT_ABI_ASSERT(sizeof(struct kvt_wire_resume) == 40, "wire");
KVT_ABI_ASSERT(sizeof(struct kvt_wire_grant) == 88, "wire");
KVT_ABI_ASSERT(sizeof(struct kvt_wire_chunks) == 24, "wire");
KVT_ABI_ASSERT(sizeof(struct kvt_wire_refused) == 272, "wire");

#endif
