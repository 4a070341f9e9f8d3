//go:build !windows

package durable

// linkWay is the rename by link(2), where there is one.
var linkWay = linkNew
