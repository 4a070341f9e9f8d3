//go:build unix

package packaging_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/goccy/go-yaml"

	"github.com/slipcover/slipcover/internal/cli"
	"github.com/slipcover/slipcover/internal/cli/clitest"
	"github.com/slipcover/slipcover/internal/config"
	"github.com/slipcover/slipcover/internal/couchgen"
	"github.com/slipcover/slipcover/internal/restore"
	"github.com/slipcover/slipcover/internal/testenv"
)

func TestMain(m *testing.M) { clitest.Main(m, cli.Run, nil) }

// container is what a container of a pod or a service of a compose file runs.
type container struct {
	args   []string
	env    map[string]string
	mounts map[string]string // the volume at each path
}

// pod is what the names in a pod's fields stand for.
var pod = map[string]string{
	"metadata.name": "couchdb-couchdb-1", "metadata.namespace": "prod", "metadata.labels['release']": "couchdb", "metadata.labels['app']": "couchdb",
}

type manifest struct {
	Kind     string
	Metadata struct{ Name string }
	Data     map[string]string
	Spec     struct {
		Template    podTemplate
		JobTemplate struct {
			Spec struct{ Template podTemplate }
		} `yaml:"jobTemplate"`
		VolumeClaimTemplates []struct{ Metadata struct{ Name string } } `yaml:"volumeClaimTemplates"`
	}
}

type podTemplate struct {
	Metadata struct{ Annotations map[string]string }
	Spec     struct {
		Containers     []podContainer
		InitContainers []podContainer `yaml:"initContainers"`
		Volumes        []struct{ Name string }
	}
}

type podContainer struct {
	Name    string
	Command []string
	Args    []string
	Env     []struct {
		Name, Value string
		ValueFrom   struct {
			FieldRef struct {
				FieldPath string `yaml:"fieldPath"`
			} `yaml:"fieldRef"`
			ConfigMapKeyRef struct{ Name, Key string } `yaml:"configMapKeyRef"`
		} `yaml:"valueFrom"`
	}
	EnvFrom []struct {
		ConfigMapRef struct{ Name string } `yaml:"configMapRef"`
	} `yaml:"envFrom"`
	VolumeMounts []struct {
		Name      string
		MountPath string `yaml:"mountPath"`
	} `yaml:"volumeMounts"`
}

// kustomized renders a folder with one more component, and returns all containers of pods by
// name, as Kubernetes would run those of the pod above.
func kustomized(t *testing.T, dir string) map[string]container {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), testenv.Kustomize(t), "build", dir).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	var all []manifest
	configs := map[string]map[string]string{}
	d := yaml.NewDecoder(bytes.NewReader(out))
	for {
		var m manifest
		if err := d.Decode(&m); err != nil {
			break
		}
		all = append(all, m)
		if m.Kind == "ConfigMap" {
			configs[m.Metadata.Name] = m.Data
		}
	}
	found := map[string]container{}
	for _, m := range all {
		p := m.Spec.Template
		if m.Kind == "CronJob" {
			p = m.Spec.JobTemplate.Spec.Template
		}
		volumes := map[string]bool{}
		for _, v := range p.Spec.Volumes {
			volumes[v.Name] = true
		}
		for _, v := range m.Spec.VolumeClaimTemplates {
			volumes[v.Metadata.Name] = true
		}
		for _, c := range slices.Concat(p.Spec.InitContainers, p.Spec.Containers) {
			r := container{env: map[string]string{}, mounts: map[string]string{}}
			for _, from := range c.EnvFrom {
				data, ok := configs[from.ConfigMapRef.Name]
				if !ok {
					t.Errorf("%s: there is no ConfigMap %s", c.Name, from.ConfigMapRef.Name)
				}
				maps.Copy(r.env, data)
			}
			expand := func(s string) string {
				return regexp.MustCompile(`\$\((\w+)\)`).ReplaceAllStringFunc(s, func(ref string) string {
					value, ok := r.env[ref[2:len(ref)-1]]
					if !ok {
						t.Errorf("%s: %s is not known where it stands", c.Name, ref)
					}
					return value
				})
			}
			for _, e := range c.Env {
				switch {
				case e.ValueFrom.FieldRef.FieldPath != "":
					r.env[e.Name] = pod[e.ValueFrom.FieldRef.FieldPath]
				case e.ValueFrom.ConfigMapKeyRef.Name != "":
					r.env[e.Name] = configs[e.ValueFrom.ConfigMapKeyRef.Name][e.ValueFrom.ConfigMapKeyRef.Key]
				default:
					r.env[e.Name] = expand(e.Value)
				}
			}
			for _, a := range slices.Concat(c.Command, c.Args) {
				r.args = append(r.args, expand(a))
			}
			for _, v := range c.VolumeMounts {
				if r.mounts[v.MountPath] = v.Name; !volumes[v.Name] {
					t.Errorf("%s mounts %s, which isn't there", c.Name, v.Name)
				}
			}
			found[c.Name] = r
		}
	}
	return found
}

// overlay makes a folder beside the example that takes a component more, and a ConfigMap for
// it. It is in a copy of packaging/kubernetes, since kustomize reads relative paths alone.
func overlay(t *testing.T, component string, files map[string]string) string {
	t.Helper()
	root := t.TempDir()
	if err := os.CopyFS(root, os.DirFS("kubernetes")); err != nil {
		t.Fatal(err)
	}
	dir := root + "/overlay"
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	text := "kind: Kustomization\nnamespace: prod\nresources: [../example]\ncomponents: [../" + component + "]\nconfigMapGenerator:\n- name: slipcover-restore\n  files: [" +
		strings.Join(slices.Sorted(maps.Keys(files)), ", ") + "]\n"
	files = maps.Clone(files)
	files["kustomization.yaml"] = text
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// composed returns the services of a compose file. Of its variables it knows ${NAME:-default}
// and ${NAME:?why}.
func composed(t *testing.T, path string) map[string]container {
	t.Helper()
	text := regexp.MustCompile(`\$\{\w+:([-?])([^}]*)\}`).ReplaceAllStringFunc(read(t, path), func(ref string) string {
		_, value, ok := strings.Cut(strings.Trim(ref, "${}"), ":-")
		if !ok {
			return "given"
		}
		return value
	})
	var file struct {
		Services map[string]struct {
			Image       string
			Entrypoint  []string
			Command     []string
			Environment map[string]string
			Volumes     []string
			Secrets     []string
			DependsOn   map[string]any `yaml:"depends_on"`
		}
		Volumes map[string]any
		Secrets map[string]any
	}
	if err := yaml.Unmarshal([]byte(text), &file); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	found := map[string]container{}
	for name, s := range file.Services {
		c := container{args: slices.Concat(s.Entrypoint, s.Command), env: maps.Clone(s.Environment), mounts: map[string]string{}}
		for _, v := range s.Volumes {
			from, at, _ := strings.Cut(v, ":")
			c.mounts[strings.TrimSuffix(at, ":ro")] = from
			if _, ok := file.Volumes[from]; !ok && !strings.HasPrefix(from, "./") {
				t.Errorf("%s: %s mounts %s, which isn't there", path, name, from)
			} else if _, err := os.Stat(filepath.Join("compose", from)); !ok && err != nil {
				t.Errorf("%s: %v", path, err)
			}
		}
		for _, x := range s.Secrets {
			if _, ok := file.Secrets[x]; !ok {
				t.Errorf("%s: %s wants the secret %s, which isn't there", path, name, x)
			}
		}
		for x := range s.DependsOn {
			if _, ok := file.Services[x]; !ok {
				t.Errorf("%s: %s depends on %s, which isn't there", path, name, x)
			}
		}
		found[name] = c
	}
	return found
}

// lockedBuffer is what a process that still runs has printed.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer // guarded by mu
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// site is a machine on which containers run: what they mount is below it.
type site struct {
	t         *testing.T
	dir       string
	bin       string // programs that are found first
	recipient string
}

func newSite(t *testing.T) *site {
	t.Helper()
	id, err := age.GenerateX25519Identity()
	if err != nil {
		t.Fatal(err)
	}
	s := &site{t: t, dir: t.TempDir(), recipient: id.Recipient().String()}
	s.write("identity.txt", id.String()+"\n")
	if err := os.Mkdir(s.path("backups"), 0o755); err != nil {
		t.Fatal(err)
	}
	// As of a storage with a log-in: the credentials are in a file.
	s.write("storage.env", "SLIPCOVER_REPOSITORY='"+s.path("backups")+"'\n")
	return s
}

func (s *site) path(name string) string { return filepath.Join(s.dir, name) }

func (s *site) write(name, text string) {
	s.t.Helper()
	if err := os.WriteFile(s.path(name), []byte(text), 0o600); err != nil {
		s.t.Fatal(err)
	}
}

// command is a container's process, with paths below the site: data is the volume with
// CouchDB's files.
func (s *site) command(ctx context.Context, c container, data string) *exec.Cmd {
	s.t.Helper()
	args := slices.Clone(c.args)
	if len(args) > 0 && args[0] == "slipcover" {
		args = args[1:]
	}
	env := maps.Clone(c.env)
	paths := strings.NewReplacer("/opt/couchdb/data", s.path(data), "/etc/slipcover/plan.yml", s.path("plan.yml"), "/run/secrets/plan", s.path("plan.yml"))
	for i := range args {
		args[i] = paths.Replace(args[i])
	}
	for name, value := range env {
		env[name] = paths.Replace(value)
	}
	maps.Copy(env, map[string]string{
		"STORAGE_ENV": s.path("storage.env"), "SLIPCOVER_RECIPIENTS": s.recipient, "SLIPCOVER_STATE_DIR": s.path("state-" + data), "RETRY_AFTER": "1", "SLIPCOVER_CONFIG": os.DevNull,
		"HOME": s.dir, "PATH": s.bin + string(filepath.ListSeparator) + os.Getenv("PATH"),
	})
	delete(env, "SLIPCOVER_CONFIG_DIR") // the image's own
	if _, ok := env["SLIPCOVER_IDENTITY_FILE"]; ok {
		env["SLIPCOVER_IDENTITY_FILE"] = s.path("identity.txt")
		env["SLIPCOVER_OWNER"] = fmt.Sprintf("%d:%d", os.Getuid(), os.Getgid())
	}
	cmd := exec.CommandContext(ctx, "sh", append([]string{"sidecar.sh"}, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // so that all of it can be ended
	for name, value := range env {
		cmd.Env = append(cmd.Env, name+"="+value)
	}
	return cmd
}

func (s *site) run(c container, data string) (out string, code int) {
	s.t.Helper()
	cmd := s.command(s.t.Context(), c, data)
	b, err := cmd.CombinedOutput()
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		s.t.Fatal(err)
	}
	return string(b), cmd.ProcessState.ExitCode()
}

// slipcover runs the program as an administrator would.
func (s *site) slipcover(args ...string) string {
	s.t.Helper()
	out, code := s.run(container{args: args, env: map[string]string{"SLIPCOVER_IDENTITY_FILE": ""}}, "none")
	if code != 0 {
		s.t.Fatalf("slipcover %s: exit code %d\n%s", strings.Join(args, " "), code, out)
	}
	return out
}

// backUp runs a sidecar until it has made a backup, and ends it. Those who look on are called with what it has said so far, again and again.
func (s *site) backUp(c container, data string, lookOn ...func(said string)) {
	s.t.Helper()
	var out lockedBuffer
	cmd := s.command(s.t.Context(), c, data)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for deadline := time.Now().Add(clitest.Patience); !strings.Contains(out.String(), "the next backup is in 86400 s"); time.Sleep(10 * time.Millisecond) {
		select {
		case err := <-ended:
			s.t.Fatalf("the sidecar ended: %v\n%s", err, out.String())
		default:
		}
		if time.Now().After(deadline) {
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			s.t.Fatalf("the sidecar made no backup:\n%s", out.String())
		}
		for _, look := range lookOn {
			look(out.String())
		}
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatal(err)
	}
	select {
	case err := <-ended:
		if err != nil {
			s.t.Errorf("the sidecar ended with %v\n%s", err, out.String())
		}
	case <-time.After(30 * time.Second): // which is how long Kubernetes waits
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		s.t.Fatalf("the sidecar didn't end:\n%s", out.String())
	}
}

const fixture = "../testdata/couchdb-3.5.0/data"

// fresh is a volume as a file system makes it.
func (s *site) fresh(name string) {
	s.t.Helper()
	if err := os.MkdirAll(s.path(name)+"/lost+found", 0o755); err != nil {
		s.t.Fatal(err)
	}
}

// restores holds an init container's command against an empty volume, a full one, and one in
// which it was killed.
func (s *site) restores(c container) {
	s.t.Helper()
	s.fresh("new")
	if out, code := s.run(c, "new"); code != 0 || !strings.Contains(out, "restored ") {
		s.t.Fatalf("into an empty volume: exit code %d\n%s", code, out)
	}
	s.slipcover("inspect", s.path("new")+"/_dbs.couch", "--verify")
	s.write("new/mine", "")
	if out, code := s.run(c, "new"); code != 0 || !strings.Contains(out, "nothing was restored") {
		s.t.Errorf("into a full volume: exit code %d\n%s", code, out)
	}

	s.fresh("killed")
	slow := container{args: append(slices.Clone(c.args), "--limit-download=200KB/s"), env: c.env}
	cmd := s.command(s.t.Context(), slow, "killed")
	var out lockedBuffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	for marked := false; !marked; time.Sleep(time.Millisecond) {
		_, err := os.Stat(s.path("killed") + "/" + restore.MarkerName)
		marked = err == nil
		select {
		case err := <-ended:
			s.t.Fatalf("it ended before it was killed: %v\n%s", err, out.String())
		default:
		}
	}
	_ = cmd.Process.Kill()
	<-ended
	if _, err := os.Stat(s.path("killed") + "/_dbs.couch"); !errors.Is(err, fs.ErrNotExist) {
		s.t.Fatalf("it was whole before it was killed: %v", err)
	}
	if out, code := s.run(c, "killed"); code != 0 || !strings.Contains(out, "went on with a restore that was not finished") {
		s.t.Errorf("after a kill: exit code %d\n%s", code, out)
	}
	if out, code := s.run(c, "killed"); code != 0 || !strings.Contains(out, "nothing was restored") {
		s.t.Errorf("after a kill and a second run: exit code %d\n%s", code, out)
	}
}

func (s *site) copyFixture(name string) {
	s.t.Helper()
	if err := os.CopyFS(s.path(name), os.DirFS(fixture)); err != nil {
		s.t.Fatal(err)
	}
}

// TestKubernetes runs what the pods' containers run, on the files of a real CouchDB.
func TestKubernetes(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.copyFixture("data")
	all := kustomized(t, overlay(t, "restore-one", map[string]string{"instance": "prod.couchdb-couchdb-1"}))
	side := all["slipcover"]
	if got := side.env["SLIPCOVER_NODE_NAME"]; got != "couchdb@couchdb-couchdb-1.couchdb-couchdb.prod.svc.cluster.local" {
		t.Errorf("the pod's node is %s", got)
	}
	if state := all["slipcover-state"]; state.mounts["/var/lib/slipcover"] != side.mounts["/var/lib/slipcover"] || !slices.Equal(state.args, []string{"chown", "5984:5984", "/var/lib/slipcover"}) {
		t.Errorf("the state is made ready by %+v", state)
	}
	for _, name := range []string{"slipcover", "slipcover-restore"} {
		if all[name].mounts["/opt/couchdb/data"] != all["couchdb"].mounts["/opt/couchdb/data"] {
			t.Errorf("%s has another volume than CouchDB", name)
		}
	}
	s.backUp(side, "data")
	if out := s.slipcover("backup", "list", "--json"); !strings.Contains(out, `"prod.couchdb-couchdb-1"`) {
		t.Errorf("the backups are %s", out)
	}
	s.backUp(side, "data") // the repository is there, and the next backup builds on the first
	for _, name := range []string{"prune", "check"} {
		if out, code := s.run(all[name], "none"); code != 0 {
			t.Errorf("%s: exit code %d\n%s", name, code, out)
		}
	}
	s.restores(all["slipcover-restore"])
	if out := s.slipcover("inspect", s.path("new")+"/_nodes.couch", "--doc", side.env["SLIPCOVER_NODE_NAME"]); !strings.Contains(out, "couchdb@couchdb-couchdb-1") {
		t.Errorf("the restored node is not the pod's: %s", out)
	}
}

// cluster makes the backups of two nodes, and the plan for two others.
func (s *site) cluster(side func(i int) container, names ...string) {
	s.t.Helper()
	old := []string{"couchdb@a.example", "couchdb@b.example"}
	for i, name := range old {
		data := fmt.Sprintf("old-%d", i)
		if _, err := couchgen.DataDir(s.path(data), couchgen.DirOptions{NodeName: name, Nodes: old, DocsPerDB: 4, Q: 1}); err != nil {
			s.t.Fatal(err)
		}
		c := side(i)
		c.env["SLIPCOVER_NODE_NAME"] = name
		s.backUp(c, data)
	}
	s.slipcover("cluster", "plan", "--nodes", strings.Join(names, ","), "--out", s.path("plan.yml"))
}

func TestKubernetesCluster(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	all := kustomized(t, overlay(t, "restore-cluster", map[string]string{"plan.yml": "cluster: prod\n"}))
	side := func(i int) container {
		c := container{env: maps.Clone(all["slipcover"].env)}
		c.env["SLIPCOVER_INSTANCE"] = fmt.Sprintf("prod.couchdb-couchdb-%d", i)
		return c
	}
	s.cluster(side, "couchdb@couchdb-couchdb-0.couchdb-couchdb.prod.svc.cluster.local", "couchdb@couchdb-couchdb-1.couchdb-couchdb.prod.svc.cluster.local")
	if out := s.slipcover("cluster", "list"); !strings.Contains(out, "prod.couchdb-couchdb ") {
		t.Errorf("the clusters are %s", out)
	}
	s.restores(all["slipcover-restore"])

	// As the document says: under an old name, what a plan made is another CouchDB.
	again := side(1)
	again.args = []string{"backup", "create"}
	if out, code := s.run(again, "new"); code != 11 {
		t.Errorf("the next backup under the old name: exit code %d\n%s", code, out)
	}
	again.args = append(again.args, "--take-over")
	if out, code := s.run(again, "new"); code != 0 {
		t.Errorf("the next backup with --take-over: exit code %d\n%s", code, out)
	}
}

// TestCompose runs what the services run, as the test above.
func TestCompose(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.copyFixture("data")
	one := composed(t, "compose/one-node.yml")
	s.backUp(one["slipcover"], "data")
	s.restores(one["restore"])

	s = newSite(t)
	three := composed(t, "compose/three-nodes.yml")
	instances, names := map[string]bool{}, []string{}
	for i := range 3 {
		c := three[fmt.Sprintf("slipcover-%d", i)]
		instances[c.env["SLIPCOVER_INSTANCE"]] = true
		names = append(names, c.env["SLIPCOVER_NODE_NAME"])
		if name := "couchdb@" + three[fmt.Sprintf("couchdb-%d", i)].env["NODENAME"]; name != names[i] {
			t.Errorf("node %d is %s, and its sidecar says %s", i, name, names[i])
		}
	}
	if !strings.Contains(read(t, "compose/cluster.ini"), "\nseedlist = "+strings.Join(names, ",")+"\n") || len(instances) != 3 {
		t.Errorf("the nodes %v have other names in cluster.ini, or one name as instances: %v", names, instances)
	}
	s.cluster(func(i int) container { return three[fmt.Sprintf("slipcover-%d", i)] }, names[:2]...)
	s.restores(three["restore-1"])
}

// TestComposeParses holds the scripts in compose files against sh.
func TestComposeParses(t *testing.T) {
	for _, file := range []string{"compose/one-node.yml", "compose/three-nodes.yml"} {
		scripts := 0
		for name, c := range composed(t, file) {
			if len(c.args) > 2 && c.args[0] == "sh" {
				scripts++
				run(t, "sh", "-n", "-c", strings.ReplaceAll(c.args[2], "$$", "$"))
			} else if strings.HasPrefix(name, "couchdb") || name == "setup" {
				t.Errorf("%s: %s runs %v", file, name, c.args)
			}
		}
		if scripts == 0 {
			t.Errorf("%s has no scripts", file)
		}
	}
	run(t, "sh", "-n", "sidecar.sh")
}

// TestComposeSetup runs the service setup on a cluster that is not set up yet, and on one that is.
func TestComposeSetup(t *testing.T) {
	t.Parallel()
	testenv.Tool(t, "curl")
	// A CouchDB that listens on 127.0.0.1 says that no cluster is set up, whatever there is.
	c := testenv.Cluster(t, 3, testenv.ClusterOptions{Q: 1, NodeNames: []string{"couchdb@127.0.0.2", "couchdb@127.0.0.3", "couchdb@127.0.0.4"}})
	node := c.Nodes[0]
	password := t.TempDir() + "/password"
	if err := os.WriteFile(password, []byte(node.Password+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	script := strings.NewReplacer("$$", "$", "/run/secrets/couchdb_password", password, "http://couchdb-0:5984", node.URL, "user = admin:", "user = "+node.Admin+":").
		Replace(composed(t, "compose/three-nodes.yml")["setup"].args[2])
	for _, db := range []string{"/_users", "/_replicator"} {
		if err := node.Delete(db); err != nil {
			t.Fatal(err)
		}
	}
	for range 2 {
		run(t, "sh", "-ec", script)
		if err := errors.Join(node.Get("/_users", nil), node.Get("/_replicator", nil)); err != nil {
			t.Error(err)
		}
	}
}

// TestSidecarTriesAgain holds that a sidecar stays when it can't back up: there is no CouchDB yet.
func TestSidecarTriesAgain(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.fresh("data")
	c := composed(t, "compose/one-node.yml")["slipcover"]
	begin := sync.OnceFunc(func() {
		if err := os.CopyFS(s.path("data"), os.DirFS(fixture)); err != nil {
			t.Error(err)
		}
	})
	s.backUp(c, "data", func(said string) {
		if strings.Contains(said, "sidecar: exit code ") {
			begin()
		}
	})
}

// TestSidecarEnds holds that a sidecar ends also if what it waits for has lost the signal, as a
// process does that is not its program yet.
func TestSidecarEnds(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.copyFixture("data")
	real, err := exec.LookPath("sleep")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(s.path("bin"), 0o755); err != nil {
		t.Fatal(err)
	}
	deaf := "#!/bin/sh\n[ \"$1\" = 86400 ] || exec " + real + " \"$@\"\ntrap 'trap - TERM' TERM\nwhile :; do " + real + " 0.1; done\n"
	if err := os.WriteFile(s.path("bin/sleep"), []byte(deaf), 0o755); err != nil {
		t.Fatal(err)
	}
	s.bin = s.path("bin")
	s.backUp(composed(t, "compose/one-node.yml")["slipcover"], "data")
}

// No variable of these files is one that the program doesn't know.
func TestVariables(t *testing.T) {
	known := map[string]bool{"SLIPCOVER_CONFIG": true}
	for _, k := range config.Keys() {
		known[k.Env()] = true
	}
	seen := map[string]bool{}
	look := func(path string) {
		for _, name := range regexp.MustCompile(`SLIPCOVER_[A-Z_]+`).FindAllString(read(t, path), -1) {
			if seen[name] = true; !known[name] {
				t.Errorf("%s has %s", path, name)
			}
		}
	}
	for _, dir := range []string{"compose", "kubernetes"} {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				look(path)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, path := range []string{"sidecar.sh", "Dockerfile", "../docs/kubernetes.md"} {
		look(path)
	}
	if len(seen) < 10 {
		t.Errorf("only %d variables were found", len(seen))
	}
}

// TestKubernetesDoc holds the blocks of docs/kubernetes.md against the files that they are from.
func TestKubernetesDoc(t *testing.T) {
	blocks := regexp.MustCompile("(?ms)^```yaml\n# ([^\n]+)\n(.*?)^```$").FindAllStringSubmatch(read(t, "../docs/kubernetes.md"), -1)
	for _, b := range blocks {
		if !strings.Contains(read(t, "../"+b[1]), b[2]) {
			t.Errorf("docs/kubernetes.md shows of %s what isn't in it:\n%s", b[1], b[2])
		}
	}
	if len(blocks) < 3 {
		t.Errorf("docs/kubernetes.md has %d blocks", len(blocks))
	}
}
