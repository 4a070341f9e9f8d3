package main

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// tool is a program, or a pipe of several, that makes backups.
type tool interface {
	// start makes an empty repository in place of what was there.
	start(ctx context.Context) error
	backup(source string) job
	// restore brings the newest backup of source back below to, and says where its
	// files will be.
	restore(source, to string) (job, string)
}

// incremental is a tool whose next backup builds on the one before, and which can
// read what it stored. Pipes of tar only begin again.
type incremental interface {
	tool
	verify() job
}

// entry is a tool in the report.
type entry struct {
	Name    string `json:"name"`
	Version string `json:"version"`
	Missing string `json:"missing,omitempty"` // what is not installed, so that it isn't measured

	tool tool
}

// entries finds the tools; Slipcover is the first.
func entries(ctx context.Context, o *options, dir, slipcover string, r *runner) []*entry {
	password := filepath.Join(dir, "password")
	home := func(name string) string { return filepath.Join(dir, name) }
	restic := program(o.getenv("RESTIC"), "restic")
	kopia := program(o.getenv("KOPIA"), "kopia")
	list := []*entry{
		{Name: "slipcover", tool: &slipcoverTool{r: r, bin: slipcover, home: home("slipcover-bench"), compression: o.compression}},
		{Name: "tar|zstd -1", tool: &tarTool{home: home("zstd"), file: "data.tar.zst",
			pack: [][]string{{"zstd", "-1", "-q"}}, unpack: [][]string{{"zstd", "-d", "-q", "-c"}}}},
		{Name: "tar|gzip|openssl", tool: &tarTool{home: home("openssl"), file: "data.tar.gz.enc",
			pack: [][]string{{"gzip"}, troveCipher(password)}, unpack: [][]string{troveCipher(password, "-d"), {"gzip", "-d", "-c"}}}},
		{Name: "restic", tool: &resticTool{r: r, bin: restic, home: home("restic"), password: password}},
		{Name: "kopia", tool: &kopiaTool{r: r, bin: kopia, home: home("kopia")}},
	}
	versions := map[string][][]string{
		"slipcover":        {{slipcover, "version"}},
		"tar|zstd -1":      {{"tar", "--version"}, {"zstd", "--version"}},
		"tar|gzip|openssl": {{"tar", "--version"}, {"gzip", "--version"}, {"openssl", "version"}},
		"restic":           {{restic, "version"}},
		"kopia":            {{kopia, "--version"}},
	}
	for _, e := range list {
		e.Version, e.Missing = findVersions(ctx, r, versions[e.Name])
	}
	return list
}

// program is where a tool is, or its name if it is on PATH or missing.
func program(named, name string) string {
	if named != "" {
		return named
	}
	return name
}

// troveCipher is the encryption of Trove's own backups.
//
// Source: Trove, backup/drivers/base.py, encrypt_cmd.
func troveCipher(password string, more ...string) []string {
	return append([]string{"openssl", "enc", "-aes-256-cbc", "-md", "sha512", "-pbkdf2", "-iter", "10000", "-salt", "-pass", "file:" + password}, more...)
}

func findVersions(ctx context.Context, r *runner, commands [][]string) (version, missing string) {
	var versions []string
	for _, args := range commands {
		if _, err := exec.LookPath(args[0]); err != nil {
			return "", fmt.Sprintf("%s is not installed", args[0])
		}
		out, err := r.quiet(ctx, args...)
		if err != nil {
			return "", err.Error()
		}
		first, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		versions = append(versions, strings.Trim(first, "* "))
	}
	return strings.Join(versions, "; "), ""
}

// again removes the folders and makes them anew.
func again(dirs ...string) error {
	for _, d := range dirs {
		if err := os.RemoveAll(d); err != nil {
			return err
		}
		if err := os.MkdirAll(d, 0o755); err != nil {
			return err
		}
	}
	return nil
}

type slipcoverTool struct {
	r                      *runner
	bin, home, compression string
	url                    string // of the repository, if it isn't a folder
}

// repo is where the repository is, and folder a folder for all that is there then.
func (t *slipcoverTool) repo() string   { return cmp.Or(t.url, t.folder()) }
func (t *slipcoverTool) folder() string { return filepath.Join(t.home, "repo") }
func (t *slipcoverTool) key() string    { return filepath.Join(t.home, "identity.txt") }

func (t *slipcoverTool) start(ctx context.Context) error {
	if err := again(t.home, t.folder()); err != nil {
		return err
	}
	if t.url != "" { // of the round before; the first time there is none
		_, _ = t.r.quiet(ctx, "swift", "delete", strings.TrimPrefix(t.url, "swift://"))
	}
	_, err := t.r.quiet(ctx, t.bin, "init", "--repo", t.repo(), "--identity-out", t.key())
	return err
}

func (t *slipcoverTool) backup(source string) job {
	args := []string{t.bin, "backup", "create", "--json", "--progress", "none", "--repo", t.repo(), "--data-dir", source,
		"--instance", "bench", "--state-dir", filepath.Join(t.home, "state")}
	if t.compression != "" {
		args = append(args, "--compression", t.compression)
	}
	return job{pipe: [][]string{args}, in: t.folder(), result: func(out []byte, s *sample) error {
		var v struct {
			Backup struct {
				ReadBytes *int64 `json:"read_bytes"`
			} `json:"backup"`
		}
		if err := json.Unmarshal(out, &v); err != nil || v.Backup.ReadBytes == nil {
			return fmt.Errorf("output of slipcover backup create: %w", errors.Join(err, errors.New("no read_bytes")))
		}
		s.SourceRead = *v.Backup.ReadBytes
		return nil
	}}
}

func (t *slipcoverTool) restore(_, to string) (job, string) {
	return job{in: to, pipe: [][]string{{t.bin, "restore", "latest", "--json", "--progress", "none", "--repo", t.repo(),
		"--identity", t.key(), "--to", to}}}, to
}

func (t *slipcoverTool) verify() job {
	args := []string{t.bin, "backup", "verify", "latest", "--json", "--progress", "none", "--repo", t.repo(), "--identity", t.key()}
	return job{pipe: [][]string{args}, in: t.folder(), result: func(out []byte, _ *sample) error {
		if !json.Valid(out) {
			return errors.New("slipcover backup verify printed no result; does this one have that command?")
		}
		return nil
	}}
}

// tarTool is tar through other programs.
type tarTool struct {
	home, file   string
	pack, unpack [][]string
}

func (t *tarTool) start(context.Context) error { return again(t.home) }

func (t *tarTool) backup(source string) job {
	return job{pipe: append([][]string{{"tar", "-cf", "-", "-C", source, "."}}, t.pack...), in: t.home, out: filepath.Join(t.home, t.file)}
}

func (t *tarTool) restore(_, to string) (job, string) {
	pipe := [][]string{{"cat", filepath.Join(t.home, t.file)}}
	pipe = append(pipe, t.unpack...)
	return job{pipe: append(pipe, []string{"tar", "-xf", "-", "-C", to}), in: to}, to
}

type resticTool struct {
	r                   *runner
	bin, home, password string
}

func (t *resticTool) repo() string { return filepath.Join(t.home, "repo") }

func (t *resticTool) args(more ...string) []string {
	return append([]string{t.bin, "--quiet", "--repo", t.repo(), "--password-file", t.password, "--cache-dir", filepath.Join(t.home, "cache")}, more...)
}

func (t *resticTool) start(ctx context.Context) error {
	if err := again(t.home); err != nil {
		return err
	}
	_, err := t.r.quiet(ctx, t.args("init")...)
	return err
}

func (t *resticTool) backup(source string) job {
	return job{pipe: [][]string{t.args("backup", "--host", "bench", source)}, in: t.repo()}
}

func (t *resticTool) restore(source, to string) (job, string) {
	return job{pipe: [][]string{t.args("restore", "latest", "--target", to)}, in: to}, filepath.Join(to, source)
}

func (t *resticTool) verify() job {
	return job{pipe: [][]string{t.args("check", "--read-data")}, in: t.repo()}
}

// kopiaTool has zstd-fastest, the closest to the others, and else Kopia's defaults.
type kopiaTool struct {
	r         *runner
	bin, home string
	newest    string // object id of the newest backup's root
}

func (t *kopiaTool) repo() string { return filepath.Join(t.home, "repo") }

func (t *kopiaTool) args(more ...string) []string {
	return append([]string{t.bin, "--config-file", filepath.Join(t.home, "repository.config"), "--log-dir", filepath.Join(t.home, "log"), "--no-progress"}, more...)
}

func (t *kopiaTool) start(ctx context.Context) error {
	if err := again(t.home, t.repo()); err != nil {
		return err
	}
	t.newest = ""
	_, err := t.r.quiet(ctx, t.args("repository", "create", "filesystem", "--path", t.repo(), "--cache-directory", filepath.Join(t.home, "cache"), "--no-check-for-updates")...)
	if err != nil {
		return err
	}
	_, err = t.r.quiet(ctx, t.args("policy", "set", "--global", "--compression", "zstd-fastest")...)
	return err
}

func (t *kopiaTool) backup(source string) job {
	return job{pipe: [][]string{t.args("snapshot", "create", "--json", source)}, in: t.repo(), result: func(out []byte, _ *sample) error {
		var v struct {
			Root struct {
				Object string `json:"obj"`
			} `json:"rootEntry"`
		}
		if err := json.Unmarshal(out, &v); err != nil || v.Root.Object == "" {
			return fmt.Errorf("output of kopia snapshot create: %w", errors.Join(err, errors.New("no root")))
		}
		t.newest = v.Root.Object
		return nil
	}}
}

func (t *kopiaTool) restore(_, to string) (job, string) {
	return job{pipe: [][]string{t.args("restore", t.newest, to)}, in: to}, to
}

func (t *kopiaTool) verify() job {
	return job{pipe: [][]string{t.args("snapshot", "verify", "--verify-files-percent=100")}, in: t.repo()}
}
