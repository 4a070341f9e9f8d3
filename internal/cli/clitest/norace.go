//go:build !race

package clitest

// Race tells whether the tests run under it, some twenty times slower.
const Race = false
