package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

const help = `Usage: go run ./internal/bench [options]

Measure Slipcover beside tar|zstd -1, tar|gzip|openssl enc, restic and Kopia on data that is made for it. Programs that
are not installed are left out and named. With the defaults it takes some 10 minutes on two quiet cores, half of it for
gzip, and 6 GB of disk.

Scenarios:
  full         a full backup: one large shard, and 8 with attachments
  restore      all of it back, compared with the source once
  verify       reading back everything that is stored: slipcover backup verify, restic check --read-data,
               kopia snapshot verify --verify-files-percent=100
  incremental  a backup after 1 % of growth
  small        many small files: a full backup, and a second one with nothing new
  prose        40,000 descriptions of Debian packages in the files of a real CouchDB: a full backup, and a restore; needs
               apt-cache, and a CouchDB at COUCHDB_BIN or /opt/couchdb/bin/couchdb, and is left out without
  swift        full, restore and small with OpenStack Swift, beside the same with a folder and what the stock client takes
               for the stored objects; needs ST_AUTH, ST_USER and ST_KEY, and isn't among the default ones

Options:
  --size SIZE         bytes of data for all scenarios but small and prose, such as 64MB (default 1GiB)
  --small-files N     shard files of about 20 KB for small (default 10000)
  --rounds N          how often everything is measured, by turns (default 3)
  --slow DURATION     what takes longer is measured once (default 45s)
  --only LIST         scenarios, with commas between (default all)
  --dir DIR           where to make a folder to work in, which is removed at the end (default among temporary files)
  --slipcover FILE    the slipcover to measure (default: built from this tree)
  --compression HOW   slipcover's --compression (default: its own)
  --json              print the result as JSON
  --quiet             no progress on standard error

KOPIA and RESTIC name programs that are not on PATH.
`

// options are those of the command line.
type options struct {
	size        int64
	smallFiles  int
	rounds      int
	slow        time.Duration
	only        []string
	dir         string
	slipcover   string
	compression string
	json        bool

	log    io.Writer // progress
	getenv func(string) string
}

var scenarioNames = []string{"full", "restore", "verify", "incremental", "small", "prose", "swift"}

func main() {
	if len(os.Args) > 1 && os.Args[1] == generateCommand {
		exit(generate(os.Args[2:], os.Stdout))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	o, err := parse(os.Args[1:], os.Stderr)
	if errors.Is(err, flag.ErrHelp) {
		fmt.Print(help)
		return
	}
	if err == nil {
		err = run(ctx, o, os.Stdout)
	}
	stop()
	exit(err)
}

func exit(err error) {
	if err != nil {
		fmt.Fprintf(os.Stderr, "bench: %v\n", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func parse(args []string, stderr io.Writer) (*options, error) {
	o := &options{getenv: os.Getenv, log: stderr}
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.SetOutput(io.Discard)
	size := f.String("size", "1GiB", "")
	f.IntVar(&o.smallFiles, "small-files", 10000, "")
	f.IntVar(&o.rounds, "rounds", 3, "")
	f.DurationVar(&o.slow, "slow", 45*time.Second, "")
	only := f.String("only", strings.Join(scenarioNames[:6], ","), "")
	f.StringVar(&o.dir, "dir", "", "")
	f.StringVar(&o.slipcover, "slipcover", "", "")
	f.StringVar(&o.compression, "compression", "", "")
	f.BoolVar(&o.json, "json", false, "")
	quiet := f.Bool("quiet", false, "")
	if err := f.Parse(args); err != nil {
		return nil, err
	}
	if *quiet {
		o.log = io.Discard
	}
	var err error
	if o.size, err = parseSize(*size); err != nil {
		return nil, err
	}
	o.only = strings.Split(*only, ",")
	for _, s := range o.only {
		if !slices.Contains(scenarioNames, s) {
			return nil, fmt.Errorf("--only %s: no such scenario; there are %s", s, strings.Join(scenarioNames, ", "))
		}
	}
	switch {
	case f.NArg() > 0:
		return nil, fmt.Errorf("%q: there are only options; see --help", f.Arg(0))
	case o.size < 4<<20:
		return nil, fmt.Errorf("--size %s: 4MiB is the least", *size)
	case o.smallFiles < 2 || o.rounds < 1:
		return nil, errors.New("--small-files must be 2 or more, and --rounds 1 or more")
	}
	return o, nil
}

// parseSize reads a number of bytes: 1000, 64MB, 1.5GiB.
func parseSize(s string) (int64, error) {
	units := []struct {
		name string
		n    float64
	}{{"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"KB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}, {"", 1}}
	for _, u := range units {
		number, ok := strings.CutSuffix(s, u.name)
		if !ok {
			continue
		}
		if v, err := strconv.ParseFloat(strings.TrimSpace(number), 64); err == nil && v > 0 && v < 1<<50 {
			return int64(v * u.n), nil
		}
		break
	}
	return 0, fmt.Errorf("size %q: write it as 64MB or 1GiB", s)
}

// run measures what o asks for and prints it.
func run(ctx context.Context, o *options, stdout io.Writer) (err error) {
	dir, remove, err := workFolder(o.dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, remove()) }()
	if err := enoughRoom(dir, o); err != nil {
		return err
	}
	binary := o.slipcover
	if binary == "" {
		if binary, err = buildSlipcover(ctx, dir); err != nil {
			return err
		}
	}
	if binary, err = filepath.Abs(binary); err != nil {
		return err
	}
	b := newBench(ctx, o, dir, binary)
	runErr := b.run(ctx)
	b.report.judge()
	if ctx.Err() != nil {
		return errors.New("interrupted")
	}
	if o.json {
		e := json.NewEncoder(stdout)
		e.SetEscapeHTML(false)
		e.SetIndent("", "  ")
		return errors.Join(runErr, e.Encode(b.report))
	}
	return errors.Join(runErr, b.report.print(stdout))
}

// workFolder returns a folder of its own below parent, or among the temporary
// ones, and what removes it.
func workFolder(parent string) (dir string, remove func() error, err error) {
	if parent != "" {
		if err := os.MkdirAll(parent, 0o755); err != nil {
			return "", nil, err
		}
	}
	if dir, err = os.MkdirTemp(parent, "slipcover-bench-"); err != nil {
		return "", nil, err
	}
	if dir, err = filepath.Abs(dir); err != nil {
		return "", nil, err
	}
	return dir, func() error { return os.RemoveAll(dir) }, nil
}

// enoughRoom refuses to begin what would fill the disk: the data, a restored copy
// of it, and up to five sets of backups.
func enoughRoom(dir string, o *options) error {
	need := 6*o.size + int64(o.smallFiles)*20_000*5
	if free, ok := freeBytes(dir); ok && free < need {
		return fmt.Errorf("%s has %s free, and this may need %s: name another folder with --dir, or a smaller --size", dir, bytesText(free), bytesText(need))
	}
	return nil
}

func buildSlipcover(ctx context.Context, dir string) (string, error) {
	path := filepath.Join(dir, "slipcover")
	c := exec.CommandContext(ctx, "go", "build", "-o", path, "github.com/slipcover/slipcover/cmd/slipcover")
	c.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := c.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build slipcover: %w: %s", err, out)
	}
	return path, nil
}
