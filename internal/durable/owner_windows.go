package durable

import "os"

// Files belong here to who made them, and rights come with the folder.
func adopt(*os.File) {}

func adoptDir(string) {}
