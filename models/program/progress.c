/*
 * models/program/progress.c - progress with rate and time left, interruption, and the library's hooks
 */
#define _POSIX_C_SOURCE 200809L

#include "models/program/program.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static volatile sig_atomic_t interrupted;
static volatile double interrupted_at; /* in seconds */

#define SECONDS_OF_ONE_INTERRUPT 0.3 /* some senders send theirs twice */

/* The first one is for the hooks, which end the work. A second one that is meant ends the process; it cannot be left to the
 * system's own handling, which does nothing for the first process of a container. */
static void on_signal(int number) {
    int before = (int)interrupted, is_second = before && (number == SIGINT || number == SIGTERM);
    if (is_second && scbm_seconds() - interrupted_at > SECONDS_OF_ONE_INTERRUPT) {
        scbm_output_remove_temporary();
        _exit(CLI_SIGNAL + number);
    }
    if (before) return;
    interrupted_at = scbm_seconds();
    interrupted = number;
    alarm(1);
}

/* A read that began between the last question and the signal would wait on: it is interrupted once more, every second. */
static void on_alarm(int number) {
    (void)number;
    alarm(1);
}

void cli_catch_signals(void) {
    static const int numbers[] = {SIGINT, SIGTERM, SIGHUP, SIGPIPE};
    struct sigaction action, before;
    memset(&action, 0, sizeof action); /* no SA_RESTART: what waits is to look */
    sigemptyset(&action.sa_mask);
    action.sa_handler = on_signal;
    for (size_t i = 0; i < sizeof numbers / sizeof *numbers; i++) {
        int is_ignored = sigaction(numbers[i], NULL, &before) == 0 && before.sa_handler == SIG_IGN;
        if (numbers[i] == SIGHUP && is_ignored) continue; /* nohup */
        sigaction(numbers[i], &action, NULL);
    }
    action.sa_handler = on_alarm;
    sigaction(SIGALRM, &action, NULL);
    action.sa_handler = SIG_IGN; /* a file that becomes too large is an error of the write */
    sigaction(SIGXFSZ, &action, NULL);
}

/* Held by what cannot be read, or written, as if they were closed still. */
void cli_hold_standard_files(void) {
    static const int modes[] = {O_WRONLY, O_RDONLY, O_RDONLY};
    for (int i = 0; i < 3; i++)
        if (fcntl(i, F_GETFD) < 0 && open("/dev/null", modes[i]) < 0) return; /* the lowest number that is free: i */
}

int cli_interrupted(void) {
    return (int)interrupted;
}

void cli_progress_clear(cli_progress *progress) {
    if (!progress->line_open) return;
    fputs("\r\033[K", stderr);
    progress->line_open = 0;
}

/* "1:02:03", "4:05" or "12 s". */
static const char *duration(double seconds, char text[32]) {
    long s = seconds > 1e8 ? 100000000L : (long)(seconds + 0.5);
    if (s >= 3600) snprintf(text, 32, "%ld:%02ld:%02ld", s / 3600, s / 60 % 60, s % 60);
    else if (s >= 60) snprintf(text, 32, "%ld:%02ld", s / 60, s % 60);
    else snprintf(text, 32, "%ld s", s);
    return text;
}

static void show(cli_progress *progress, int64_t done, int64_t total, double now) {
    enum { WIDTH = 24 };
    char left[32], bar[WIDTH + 1];
    double spent = now - progress->started;
    double rate = spent > 0 ? (double)(done - progress->first) / spent : 0;
    duration(rate > 0 ? (double)(total - done) / rate : 0, left);
    if (progress->to_terminal) {
        int filled = total > 0 ? (int)((double)WIDTH * (double)done / (double)total) : WIDTH;
        memset(bar, '.', WIDTH);
        memset(bar, '#', (size_t)(filled < 0 ? 0 : filled > WIDTH ? WIDTH : filled));
        bar[WIDTH] = 0;
        fprintf(stderr, "\r%s [%s] %lld/%lld, %.1f/s, %s left\033[K", progress->what, bar, (long long)done,
                (long long)total, rate, left);
        progress->line_open = 1;
    } else {
        fprintf(stderr, "sparsecbm %s: %s: %lld of %lld, %.1f/s, %s left\n", progress->command, progress->what,
                (long long)done, (long long)total, rate, left);
    }
    fflush(stderr);
    progress->shown = now;
}

/* The library's progress hook. A terminal sees a bar ten times a second, a log a line every ten seconds; work that
 * is over before the first of these says nothing. */
static int on_progress(void *user, const char *what, int64_t done, int64_t total) {
    cli_progress *progress = user;
    if (interrupted) return 1;
    if (cli_quiet || strcmp(what, "graph") == 0) return 0; /* within one run: only a place to stop */
    if (progress->main && strcmp(what, progress->main) == 0) progress->main_left = total - done;
    else if (progress->main_left) return 0;
    if (progress->whole && total == progress->batch) { /* the library counts the batch */
        done += progress->before;
        total = progress->whole;
    }
    double now = scbm_seconds();
    if (strncmp(what, progress->what, sizeof progress->what - 1) != 0 || done < progress->first) {
        snprintf(progress->what, sizeof progress->what, "%s", what);
        progress->started = now;
        progress->first = done;
        if (progress->shown < now - 10) progress->shown = now;
    }
    double interval = progress->to_terminal ? (progress->line_open ? 0.1 : 0.5) : 10;
    if (now - progress->shown >= interval && done < total) show(progress, done, total, now);
    if (done >= total) cli_progress_clear(progress);
    return 0;
}

static int on_cancel(void *user) {
    (void)user;
    return interrupted != 0;
}

/* Whether the message is among the last warnings; from now on it is. (FNV-1a) */
static int was_said(cli_progress *progress, const char *message) {
    enum { MOST = sizeof progress->said / sizeof progress->said[0] };
    uint64_t hash = UINT64_C(0xcbf29ce484222325);
    for (; *message; message++) hash = (hash ^ (unsigned char)*message) * UINT64_C(0x100000001b3);
    for (int i = 0; i < progress->n_said && i < MOST; i++)
        if (progress->said[i] == hash) return 1;
    progress->said[progress->n_said++ % MOST] = hash;
    return 0;
}

static void on_log(void *user, scbm_log_level level, const char *message) {
    cli_progress *progress = user;
    char shown[4096]; /* file names and values may hold anything */
    if (cli_quiet && level < SCBM_LOG_WARNING) return;
    if (level == SCBM_LOG_WARNING && was_said(progress, message)) return;
    cli_progress_clear(progress);
    fprintf(stderr, "sparsecbm %s: %s%s\n", progress->command, level == SCBM_LOG_WARNING ? "warning: " : "",
            cbm_text_show(shown, sizeof shown, message, strlen(message), 0));
}

scbm_hooks cli_hooks(cli_progress *progress, const cli_command *command, int64_t threads) {
    memset(progress, 0, sizeof *progress);
    progress->command = command->name;
    progress->to_terminal = cli_is_terminal(stderr);
    progress->shown = scbm_seconds();
    scbm_hooks hooks;
    memset(&hooks, 0, sizeof hooks);
    hooks.user = progress;
    hooks.log = on_log;
    hooks.progress = on_progress;
    hooks.cancel = on_cancel;
    hooks.n_workers = (int)threads;
    return hooks;
}
