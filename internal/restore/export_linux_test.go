package restore

// ProcessOf returns what names a process beside its number.
func ProcessOf(pid int) (start, boot string) {
	p := processOf(pid)
	return p.Start, p.Boot
}
