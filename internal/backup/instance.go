package backup

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/slipcover/slipcover/internal/manifest"
	"github.com/slipcover/slipcover/internal/node"
	"github.com/slipcover/slipcover/internal/repo"
	"github.com/slipcover/slipcover/internal/state"
)

// DefaultInstance names the instance of a node for which no name is configured, as
// steadily as the node itself is: by the state of its backups here, else by the backups of
// the same node in the repository, and only for a first backup by the name of the host.
// That of a container, 12 hex digits, is another one after each start; there it is the
// node's own, or made of the uuid of its shard map. why says how it was found; it is
// empty for the host's name.
func DefaultInstance(ctx context.Context, r *repo.Repo, stateDir string, n *node.Node, host string) (name, why string, err error) {
	id, nodeName := state.Identify(n)
	names := knownInstances(filepath.Join(stateDir, r.Config().ID), id)
	if len(names) == 0 && id.MapUUID != "" {
		if names, err = storedInstances(ctx, r, id, nodeName); err != nil {
			return "", "", err
		}
	}
	switch {
	case slices.Contains(names, host):
		return host, "", nil
	case len(names) == 1:
		return names[0], "the backups of this CouchDB have that name", nil
	case len(names) > 1:
		return "", "", fmt.Errorf("%w: this CouchDB has been backed up as %s: set instance to the one to go on with", ErrOptions, joinShort(names))
	}
	if !containerName.MatchString(host) {
		return host, "", nil
	}
	_, at, _ := strings.Cut(nodeName, "@")
	switch at, _, _ = strings.Cut(at, "."); {
	case manifest.ValidInstance(at) && hostName.MatchString(at) && at != "localhost" && at != "nohost" && !containerName.MatchString(at):
		return at, "by the name of the node, since the host's is a container's and changes", nil
	case id.MapUUID != "":
		return "couchdb-" + id.MapUUID[:min(8, len(id.MapUUID))], "by the uuid of _dbs.couch, since the host's name is a container's and changes", nil
	}
	return host, "", nil
}

var (
	containerName = regexp.MustCompile(`^[0-9a-f]{12}$`)
	hostName      = regexp.MustCompile(`[A-Za-z]`) // not a piece of an address
)

// knownInstances lists the instances in dir, the state of a repository, whose last
// backup is of that node.
func knownInstances(dir string, id manifest.Identity) []string {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	var names []string
	for _, e := range entries {
		if !manifest.ValidInstance(e.Name()) {
			continue
		}
		st, _, err := state.Read(filepath.Join(dir, e.Name()), filepath.Base(dir))
		if err == nil && st != nil && identityOf(st).Agrees(id) {
			names = append(names, e.Name())
		}
	}
	return names
}

// storedInstances lists the instances in the repository whose newest backup is of that
// node.
func storedInstances(ctx context.Context, r *repo.Repo, id manifest.Identity, nodeName string) ([]string, error) {
	all, err := r.Instances(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, name := range all {
		rec, err := r.LastMade(ctx, name)
		if err != nil {
			return nil, err
		}
		if rec != nil && rec.Identity.Agrees(id) && (nodeName == "" || rec.NodeName == "" || rec.NodeName == nodeName) {
			names = append(names, name)
		}
	}
	return names, nil
}
