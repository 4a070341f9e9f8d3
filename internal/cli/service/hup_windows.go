package service

import "os"

// hangUps never tells anything: Windows has no SIGHUP.
func hangUps() <-chan os.Signal { return nil }
