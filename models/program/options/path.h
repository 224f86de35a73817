/*
 * models/program/options/path.h - questions about files, before and after they are written, for the programs
 */
#ifndef CBM_CLI_PATH_H
#define CBM_CLI_PATH_H

/* Whether both paths name one regular file: by device and inode where both exist, and where neither does yet, by the last
 * name and the folder. */
int cli_same_file(const char *a, const char *b);

/* Whether `path` names a file in `folder` or in one of the folders in it. */
int cli_is_in_folder(const char *path, const char *folder);

/* Whether a file is there that its permissions keep from being written; for the superuser: that nobody may write. */
int cli_is_read_only(const char *path);

/* 0 where there is none. */
double cli_file_bytes(const char *path);

/* A symbolic link whose end is not there. */
int cli_leads_nowhere(const char *path);
/* Why a file at `path` cannot be made or replaced, as a number of errno; 0: nothing speaks against it. */
int cli_write_error(const char *path);

#endif
