package manifest

import (
	"fmt"
	"unicode/utf8"
)

// The limits of what a backup says of its cluster.
const (
	maxNodes    = 1024
	maxNodeName = 255 // bytes: a node's name is an atom of Erlang
)

// CheckCluster reports the first thing that a backup can't say of its cluster: it has a name as an instance has
// one, or none, and at most 1024 nodes, in order and each once, with names of 1 to 255 bytes of UTF-8.
func CheckCluster(name string, nodes []string) error {
	if name != "" && !ValidInstance(name) {
		return fmt.Errorf("cluster %.80q: its name is letters, digits, dot, underscore and dash, at most 63, the first a letter or digit", name)
	}
	if len(nodes) > maxNodes {
		return fmt.Errorf("%d nodes: a cluster has at most %d", len(nodes), maxNodes)
	}
	for i, node := range nodes {
		if node == "" || len(node) > maxNodeName || !utf8.ValidString(node) {
			return fmt.Errorf("node %.80q of a cluster: its name is 1 to %d bytes of UTF-8", node, maxNodeName)
		}
		if i > 0 && node <= nodes[i-1] {
			return fmt.Errorf("node %.80q of a cluster: it doesn't come after the one before it", node)
		}
	}
	return nil
}
