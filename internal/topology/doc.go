// Package topology plans clusters: which instances are one, which node has which range
// of which database, and who gets which file when a backup comes back on other nodes. It
// does no I/O.
package topology
