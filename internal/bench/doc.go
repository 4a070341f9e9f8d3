// Command bench measures Slipcover beside other ways to back up the same files:
// tar and zstd, tar and gzip and openssl as Trove has it, restic, and Kopia. It
// makes data directories, runs the programs by turns, prints what each took and
// how many times as long as Slipcover, and holds that against the project's
// targets. `make bench` runs it.
//
// # What makes the numbers comparable
//
//   - Every program runs as its users run it, as a process of its own, over the
//     same directory, which was read once before, so that disks decide nothing.
//   - Programs take turns in every round, so that what disturbs the machine for a
//     while disturbs all. The best of the rounds says what a program can do.
//   - The time ends when the bytes are on disk: each run is followed by a syncfs of
//     the file system it wrote to, which counts. Some programs sync each file,
//     others none. What was written before is synced before the time begins.
//   - Slipcover verifies and encrypts, as it does unless told otherwise. Restic and
//     Kopia encrypt always; tar|zstd doesn't.
//   - The first restore by each program is compared with the source byte by byte.
//
// Wall time on a shared machine says little; CPU time, user and system of all
// processes of a run, says more, and the load before each run is kept.
//
// # What is measured how
//
// Peak memory is ru_maxrss, for a pipe the sum over its processes. Bytes read are
// all that the processes read, rchar of /proc/PID/io: source, repository and own
// files; of Slipcover also what it says it read of the source. Bytes stored are by
// how much the folder with the backups grew. Linux counts the memory of the
// starting process into ru_maxrss of the started one, so this one stays small: the
// data is made by another process.
package main
