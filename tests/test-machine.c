/*
 * tests/test-machine.c - how much memory is left and how many processors may be used, by made-up trees of /proc and
 * /sys/fs/cgroup
 */
#define _XOPEN_SOURCE 700

#include "tests/helpers.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#define MIB ((size_t)1 << 20)

/* Writes a file of the tree, with the folders on its way. */
static void put(const char *path, const char *text) {
    char whole[600];
    snprintf(whole, sizeof whole, "%s%s", folder, path);
    for (char *c = whole + strlen(folder) + 1; *c; c++) {
        if (*c != '/') continue;
        *c = '\0';
        mkdir(whole, 0700);
        *c = '/';
    }
    write_file(whole, text, strlen(text));
}

/* A tree of a machine with 1,000 MiB available, and this text as the process's groups. */
static void make_machine(const char *groups) {
    empty_folder();
    put("/proc/meminfo", "MemTotal:        4096000 kB\nMemFree:          100000 kB\nMemAvailable:    1024000 kB\n");
    if (groups) put("/proc/self/cgroup", groups);
}

static void assert_left(size_t bytes) {
    assert_int_equal(scbm_available_memory(folder), bytes);
}

static void without_groups_it_is_what_the_machine_has(void **state) {
    (void)state;
    make_machine(NULL);
    assert_left(1000 * MIB);
    make_machine("0::/\n"); /* a tree without limits: the topmost group has no such files */
    put("/sys/fs/cgroup/cgroup.procs", "1\n");
    assert_left(1000 * MIB);
}

static void a_system_that_says_nothing_has_no_limit(void **state) {
    (void)state;
    empty_folder();
    assert_left(SIZE_MAX);
    assert_int_equal(scbm_available_memory("/nowhere"), SIZE_MAX);
    put("/proc/meminfo", "MemTotal: many\nMemAvailable: ?\n");
    put("/proc/self/cgroup", "garbage\n:\n::\n\n0:\n");
    put("/sys/fs/cgroup/memory.max", "");
    assert_left(SIZE_MAX);
}

static void the_group_of_version_2_leaves_its_limit_without_what_it_uses(void **state) {
    (void)state;
    make_machine("0::/work\n");
    put("/sys/fs/cgroup/work/memory.max", "524288000\n"); /* 500 MiB */
    assert_left(500 * MIB);
    put("/sys/fs/cgroup/work/memory.current", "209715200\n"); /* 200 MiB, of them 50 of cached files */
    assert_left(300 * MIB);
    put("/sys/fs/cgroup/work/memory.stat", "anon 157286400\nactive_file 1\ninactive_file 52428800\n");
    assert_left(350 * MIB);
    put("/sys/fs/cgroup/work/memory.high", "419430400\n"); /* 400 MiB: it is slowed down from there on */
    assert_left(250 * MIB);
    put("/sys/fs/cgroup/work/memory.current", "1048576000\n");
    assert_left(0);
    put("/sys/fs/cgroup/work/memory.max", "max\n");
    put("/sys/fs/cgroup/work/memory.high", "max\n");
    assert_left(1000 * MIB);
}

static void the_smallest_limit_on_the_way_up_counts(void **state) {
    (void)state;
    make_machine("0::/user.slice/user-1000.slice/job.scope\n");
    put("/sys/fs/cgroup/user.slice/user-1000.slice/job.scope/memory.max", "max\n");
    put("/sys/fs/cgroup/user.slice/user-1000.slice/job.scope/memory.current", "104857600\n");
    put("/sys/fs/cgroup/user.slice/user-1000.slice/memory.max", "838860800\n"); /* 800 MiB, 700 of them used */
    put("/sys/fs/cgroup/user.slice/user-1000.slice/memory.current", "734003200\n");
    put("/sys/fs/cgroup/user.slice/memory.max", "943718400\n"); /* 900 MiB, 750 of them used */
    put("/sys/fs/cgroup/user.slice/memory.current", "786432000\n");
    put("/sys/fs/cgroup/other.slice/memory.max", "1048576\n"); /* not on the way */
    assert_left(100 * MIB);
    put("/sys/fs/cgroup/user.slice/user-1000.slice/job.scope/memory.max", "157286400\n"); /* 150 MiB, 100 used */
    assert_left(50 * MIB);
    put("/sys/fs/cgroup/user.slice/memory.max", "796917760\n"); /* 760 MiB, 750 used */
    assert_left(10 * MIB);
}

static void version_1_is_read_too(void **state) {
    (void)state;
    make_machine("11:cpuset:/elsewhere\n4:hugetlb,memory,pids:/docker/abc\n1:name=systemd:/memory\n0::/\n");
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712\n"); /* its word for none */
    put("/sys/fs/cgroup/memory/memory.usage_in_bytes", "3145728000\n");
    assert_left(1000 * MIB);
    put("/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "629145600\n"); /* 600 MiB */
    put("/sys/fs/cgroup/memory/docker/abc/memory.usage_in_bytes", "314572800\n");
    put("/sys/fs/cgroup/memory/docker/abc/memory.stat", "inactive_file 1\ntotal_inactive_file 104857600\n");
    assert_left(400 * MIB);
    put("/sys/fs/cgroup/memory/docker/memory.limit_in_bytes", "209715200\n");
    assert_left(200 * MIB);
    put("/sys/fs/cgroup/memory/elsewhere/memory.limit_in_bytes", "1\n");
    assert_left(200 * MIB);
}

/* Inside a container the path is often that of the host, and what is mounted is the container's own group. */
static void a_container_sees_its_own_group_as_the_topmost(void **state) {
    (void)state;
    make_machine("0::/system.slice/docker-abc.scope\n");
    put("/sys/fs/cgroup/memory.max", "314572800\n");
    put("/sys/fs/cgroup/memory.current", "104857600\n");
    assert_left(200 * MIB);
    make_machine("0::/../../other\n");
    put("/sys/fs/cgroup/memory.max", "314572800\n");
    put("/sys/fs/other/memory.max", "1\n");
    assert_left(300 * MIB);
    make_machine(NULL); /* no word about the group at all */
    put("/sys/fs/cgroup/memory/memory.limit_in_bytes", "104857600\n");
    assert_left(100 * MIB);
}

static void long_paths_are_walked_or_left_alone(void **state) {
    (void)state;
    static char groups[9000];
    strcpy(groups, "0::");
    for (int i = 0; i < 700; i++) strcat(groups, "/abcdefghij");
    strcat(groups, "\n");
    make_machine(groups);
    put("/sys/fs/cgroup/memory.max", "104857600\n");
    assert_left(100 * MIB);
    groups[3 + 11 * 20] = '\0'; /* 20 deep */
    make_machine(groups);
    put("/sys/fs/cgroup/memory.max", "104857600\n");
    put("/sys/fs/cgroup/abcdefghij/abcdefghij/memory.max", "52428800\n");
    assert_left(50 * MIB);
}

static void this_machine_has_some_memory(void **state) {
    (void)state;
    assert_true(scbm_available_memory(NULL) > 0);
}

/* ------------------------------------------------------------------------------------------
 * Processors
 * ---------------------------------------------------------------------------------------- */

static void assert_quota(double processors) {
    double quota = scbm_processor_quota(folder);
    if (quota != processors) fail_msg("%g processors, not %g", quota, processors);
}

static void without_a_quota_there_is_none(void **state) {
    (void)state;
    make_machine(NULL);
    assert_quota(INFINITY);
    assert_true(isinf(scbm_processor_quota("/nowhere")));
    make_machine("0::/work\n");
    put("/sys/fs/cgroup/work/cpu.max", "max 100000\n");
    assert_quota(INFINITY);
    static const char *const garbage[] = {"", "\n", "50000\n", "50000 0\n", "0 100000\n", "many 100000\n", "max\n"};
    for (int i = 0; i < COUNT_OF(garbage); i++) {
        put("/sys/fs/cgroup/work/cpu.max", garbage[i]);
        assert_quota(INFINITY);
    }
}

static void the_smallest_quota_on_the_way_up_counts(void **state) {
    (void)state;
    make_machine("0::/pods/one/app\n");
    put("/sys/fs/cgroup/pods/one/app/cpu.max", "400000 100000\n");
    assert_quota(4);
    put("/sys/fs/cgroup/pods/cpu.max", "150000 100000\n");
    assert_quota(1.5);
    put("/sys/fs/cgroup/pods/one/cpu.max", "max 100000\n");
    put("/sys/fs/cgroup/other/cpu.max", "1000 100000\n"); /* not on the way */
    assert_quota(1.5);
    put("/sys/fs/cgroup/pods/one/app/cpu.max", "10000 20000\n");
    assert_quota(0.5);
    make_machine("0::/../..\n"); /* a container: what is mounted is its own group */
    put("/sys/fs/cgroup/cpu.max", "200000 100000\n");
    assert_quota(2);
}

static void quotas_of_version_1_are_read_too(void **state) {
    (void)state;
    static const char *const mounts[] = {"/sys/fs/cgroup/cpu", "/sys/fs/cgroup/cpu,cpuacct"};
    for (int i = 0; i < COUNT_OF(mounts); i++) {
        char path[200];
        make_machine("11:cpuset:/elsewhere\n4:cpu,cpuacct:/docker/abc\n2:cpuacct:/wrong\n0::/\n");
        snprintf(path, sizeof path, "%s/cpu.cfs_quota_us", mounts[i]);
        put(path, "-1\n");
        snprintf(path, sizeof path, "%s/docker/abc/cpu.cfs_quota_us", mounts[i]);
        put(path, "250000\n");
        assert_quota(INFINITY); /* without a period */
        snprintf(path, sizeof path, "%s/docker/abc/cpu.cfs_period_us", mounts[i]);
        put(path, "100000\n");
        assert_quota(2.5);
        snprintf(path, sizeof path, "%s/docker/cpu.cfs_quota_us", mounts[i]);
        put(path, "50000\n");
        snprintf(path, sizeof path, "%s/docker/cpu.cfs_period_us", mounts[i]);
        put(path, "50000\n");
        assert_quota(1);
    }
}

static void there_is_a_thread_by_default(void **state) {
    (void)state;
    assert_true(scbm_default_threads() >= 1);
    double quota = scbm_processor_quota(NULL);
    if (!getenv("OMP_NUM_THREADS") && quota >= 1) assert_true(scbm_default_threads() <= quota + 0.5);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(without_groups_it_is_what_the_machine_has),
        cmocka_unit_test(a_system_that_says_nothing_has_no_limit),
        cmocka_unit_test(the_group_of_version_2_leaves_its_limit_without_what_it_uses),
        cmocka_unit_test(the_smallest_limit_on_the_way_up_counts),
        cmocka_unit_test(version_1_is_read_too),
        cmocka_unit_test(a_container_sees_its_own_group_as_the_topmost),
        cmocka_unit_test(long_paths_are_walked_or_left_alone),
        cmocka_unit_test(this_machine_has_some_memory),
        cmocka_unit_test(without_a_quota_there_is_none),
        cmocka_unit_test(the_smallest_quota_on_the_way_up_counts),
        cmocka_unit_test(quotas_of_version_1_are_read_too),
        cmocka_unit_test(there_is_a_thread_by_default),
    };
    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
