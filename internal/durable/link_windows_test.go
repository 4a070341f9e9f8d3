package durable

var linkWay func(from, to string) error
