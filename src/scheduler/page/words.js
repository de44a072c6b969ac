// Words of the page in English and Chinese.

const WORDS = {
  skip: ["Skip to content", "跳到正文"], loading: ["Asking ...", "读取中……"],
  runs: ["Runs", "运行"], cases: ["Cases", "用例"], environments: ["Environments", "环境"], workers: ["Workers", "执行机"],
  tags: ["Tags", "互斥标签"], queues: ["Queues", "队列"],
  run: ["Run", "运行"], state: ["State", "状态"], progress: ["Progress", "进度"], tasks: ["Tasks", "任务"], started: ["Started", "开始"],
  time: ["Time", "用时"], queue: ["Queue", "队列"], owner: ["Owner", "负责人"], name: ["Name", "名称"], id: ["Id", "编号"],
  kind: ["Kind", "类型"], history: ["Last results", "最近结果"], typical: ["Typical", "通常用时"], environment: ["Environment", "环境"],
  case: ["Case", "用例"], repeat: ["Repeat", "次序"], attempts: ["Attempts", "尝试"], worker: ["Worker", "执行机"], result: ["Result", "结果"],
  reason: ["Waits for", "等待"], labels: ["Labels", "标签"], health: ["Health", "健康"], capacity: ["Capacity", "容量"],
  slots: ["Slots", "槽位"], address: ["Address", "地址"], tag: ["Tag", "标签"], holders: ["Held by", "持有者"], waiters: ["Waiting", "等待者"],
  weight: ["Weight", "权重"], limit: ["Tasks at once", "同时任务上限"], runs_max: ["Open runs at most", "开放运行上限"], none: ["none", "无"],
  config: ["Configuration", "配置"], all: ["All", "全部"], open: ["Open", "进行中"], ended: ["Ended", "已结束"],
  state_waiting: ["waiting", "等待中"], for_people: ["waits for a person", "等待人工判定"], accepted: ["accepted", "已接收"], running: ["running", "运行中"], paused: ["paused", "已暂停"], canceling: ["canceling", "取消中"],
  passed: ["passed", "通过"], failed: ["failed", "失败"], canceled: ["canceled", "已取消"], incomplete: ["incomplete", "不完整"],
  s00: ["waiting", "等待"], s01: ["running", "运行中"], s02: ["passed", "通过"], s03: ["failed", "失败"], s04: ["error", "异常"],
  s05: ["canceled", "已取消"], s06: ["skipped", "跳过"], s07: ["timed out", "超时"], s08: ["lost", "丢失"], flaky: ["flaky", "不稳定"],
  unknown: ["unknown", "未知"], good: ["good", "正常"], bad: ["bad", "异常"], looping: ["looping", "循环检查"], maintenance: ["maintenance", "维护中"],
  retired: ["retired", "停用"], enabled: ["enabled", "启用"], muted: ["muted", "静默"], skipped: ["skipped", "跳过"],
  submit: ["Submit a run", "提交运行"], submit_now: ["Submit", "提交"], cancel_run: ["Cancel", "取消运行"], pause: ["Pause", "暂停"],
  resume: ["Resume", "继续"], rerun_failed: ["Rerun failed", "重跑失败项"], rerun_lost: ["Rerun lost", "重跑丢失项"], rerun_all: ["Rerun all", "全部重跑"], close: ["Close", "关闭"], save: ["Save", "保存"],
  drain: ["Drain", "排空"], draining: ["leaving", "离开中"], resting: ["resting", "休息中"], more: ["Show more", "显示更多"], search: ["Search", "搜索"], repeats: ["Repeats", "重复次数"],
  overview: ["Overview", "概览"], waiting: ["Waiting", "等待中"], failures: ["Failures", "失败"], timeline: ["Slots", "槽位时间线"], lanes: ["Cases", "用例"],
  bound: ["Lower bound", "理论下限"], efficiency: ["Efficiency", "效率"], makespan: ["Makespan", "总用时"], left: ["At least left", "至少剩余"], work: ["Work", "工作量"],
  loss: ["Slot time that was not used, by cause", "未利用的槽位时间（按原因）"], loss_start: ["first start", "首次启动"], loss_predecessor: ["predecessors", "前置用例"], loss_tag: ["tags", "互斥标签"], loss_limit: ["full environment or queue", "环境或队列已满"], loss_person: ["people's verdicts", "等待人工判定"],
  loss_hand_over: ["hand-over", "交接"], loss_tail: ["tail", "收尾"], loss_repeated: ["repeated attempts", "重复尝试"], loss_gone: ["workers gone", "执行机离开"], loss_other: ["other causes", "其他原因"],
  bound_work: ["work over slots", "工作量/槽位"], bound_tag: ["longest tag", "最长标签"], bound_limit: ["longest environment or queue", "最长环境或队列"], bound_chain: ["longest chain", "最长链"],
  no_runs: ["No runs yet. Submit one, or: quoin run submit PLAN", "还没有运行。提交一个，或者：quoin run submit 计划文件"],
  no_cases: ["No cases fit.", "没有符合的用例。"], no_environments: ["No environments.", "没有环境。"], no_workers: ["No workers. Start one: quoin worker --name w1", "没有执行机。启动一个：quoin worker --name w1"],
  no_tags: ["No tag is held.", "没有被持有的标签。"], no_queues: ["All queues have default settings.", "所有队列都是默认设置。"], no_tasks: ["No tasks fit.", "没有符合的任务。"],
  no_failures: ["Nothing has failed.", "没有失败。"], nothing_waits: ["Nothing waits.", "没有等待的任务。"], nothing_ran: ["Nothing has run yet.", "尚未执行。"],
  submitted: ["Run {0} is submitted: {1}", "运行 {0} 已提交：{1}"], exactly: ["{0} =", "{0} ="], save_over: ["It is at version {0} now. Save again to replace that.", "现在是版本 {0}。再次保存将覆盖它。"], asked: ["It is asked for.", "已提出请求。"], saved: ["Saved.", "已保存。"],
  of: ["{0} of {1}", "{0} / {1}"], pick_cases: ["Pick cases", "选择用例"], include: ["Include predecessors that are not picked", "包含未选的前置用例"],
  rerun_of: ["Repeats run {0}", "重跑自 {0}"], output: ["Output", "输出"], expected: ["Expected", "期望"], attempt: ["Attempt {0} on {1}", "第 {0} 次尝试，于 {1}"], attempt_person: ["Attempt {0}, judged by a person", "第 {0} 次尝试，人工判定"], person: ["a person", "人工"],
  login: ["Log in", "登录"], log_out: ["Log out {0}", "退出 {0}"], user_label: ["User (empty for a token)", "用户（用令牌时留空）"], secret_label: ["Password or token", "密码或令牌"], go: ["Go on", "继续"], away: ["No answer: {0}", "无应答：{0}"],
  whole: ["{0}: all of it", "{0}：完整内容"], not_served: ["Worker {0} does not serve its artifacts.", "执行机 {0} 不提供附件。"],
  new: ["new", "新出现"], known_since: ["fails since run {0}", "自运行 {0} 起失败"], back: ["Back", "返回"], yes_cancel: ["Yes, cancel the run", "是，取消运行"], sure_drain: ["Let worker {0} finish what it has and leave?", "让执行机 {0} 完成手头任务后离开？"],
  rerun_unstarted: ["Run what never ran", "运行未执行项"], minutes: ["min", "分"], hours: ["h", "小时"], reserved: ["reserved", "已预留"],
  why_predecessor: ["predecessor", "前置用例"], why_tag: ["tag", "互斥标签"], why_environment: ["environment", "环境"], why_queue: ["queue", "队列"], why_label: ["no fit worker", "无合适执行机"],
  why_scheduler: ["a scheduler", "调度器"], why_slot: ["slot", "槽位"], why_store: ["room in the store", "存储空间"], why_turn: ["turn", "排队"], why_rest: ["rest before another attempt", "重试前等待"], why_paused: ["paused", "已暂停"], why_stopped: ["stopped", "已停止"], why_verdict: ["a person's verdict", "人工判定"],
  field_message: ["Message", "消息"], field_exit: ["Exit code", "退出码"], field_stdout: ["Output", "输出"], field_stderr: ["Error output", "错误输出"], field_output: ["Output", "输出"],
  field_http: ["Status of the answer", "应答状态码"], field_signal: ["Signal", "信号"], field_leaked: ["It left processes behind", "遗留进程"], field_by: ["Said by", "判定人"], field_reason: ["Reason", "原因"], field_result: ["Result", "结果"],
  field_tail: ["{0}: its end", "{0}（末尾）"], field_bytes: ["{0}: bytes in all", "{0}（总字节数）"], field_artifact_bytes: ["{0}: bytes that the worker kept", "{0}（执行机保留的字节数）"], yes: ["yes", "是"], no: ["no", "否"],
  http: ["http", "HTTP 请求"], command: ["command", "命令"], manual: ["manual", "人工"],
  live: ["live", "实时"], help: ["Keys", "快捷键"], language: ["中文", "English"], dark: ["Dark", "深色"], light: ["Light", "浅色"], theme: ["Theme", "主题"],
  key_go: ["Go to runs, cases, flaky ones, environments, workers, tags, queues", "前往运行、用例、不稳定用例、环境、执行机、标签、队列"], key_move: ["Next and previous row", "下一行、上一行"],
  key_open: ["Open the row", "打开该行"], key_search: ["Search", "搜索"], key_submit: ["Submit a run", "提交运行"], key_theme: ["Dark or light", "深色或浅色"], key_language: ["Language", "语言"],
  key_back: ["Close", "关闭"], tasks_wait: ["{0} tasks", "{0} 个任务"], one_task: ["{0} task", "{0} 个任务"], bound_guessed: ["{0} of unknown length, counted as 1 s each", "{0}时长未知，各按 1 秒计"], picked_tasks: ["{0} picked: {1}", "已选 {0} 个：{1}"], picked_more: ["{0} picked: {1}, and those of their predecessors", "已选 {0} 个：{1}，另加前置用例"], new_case: ["New case", "新建用例"], edit: ["Edit", "编辑"], mute: ["Mute", "静默"], 
  delete: ["Delete", "删除"], sure: ["Delete {0}?", "删除 {0}？"], sure_cancel: ["Cancel this run? What runs is stopped.", "取消此运行？正在执行的任务会被停止。"], definition: ["Definition", "定义"], check_now: ["Check now", "立即检查"], checked: ["Checked.", "已检查。"], start_maintenance: ["Maintenance", "维护"], end_maintenance: ["Back to use", "恢复使用"], new_environment: ["New environment", "新建环境"],
  your_verdict: ["Your verdict", "您的判定"], seen: ["What was seen", "观察到的情况"], error: ["error", "异常"],
  left_out: ["{0} attempts are shown; {1} were before, {2} after.", "显示 {0} 次尝试；之前还有 {1} 次，之后还有 {2} 次。"], earlier: ["Earlier", "更早"], later: ["Later", "更晚"], people: ["people", "人工"], worker_gone: ["gone", "已离开"], deadline: ["free", "空闲"], audit: ["Audit", "审计"], clean: ["The record is whole: nothing lost, nothing doubled.", "记录完整：无丢失、无重复。"], version: ["version", "版本"],
  flaky_cases: ["Flaky", "不稳定用例"], assigned: ["given out", "已分配"], rest: ["not ended", "未结束"], retries: ["Retries", "重试"], rate: ["Tasks a second", "每秒任务数"],
  ends: ["Ends about", "预计结束"], overdue: ["overdue", "已超时"], loss_left_out: ["There are too many tasks for the loss by cause.", "任务过多，无法按原因统计。"], retries_test: ["{0} after a failure", "失败后 {0} 次"], retries_infra: ["{0} without a verdict", "无判定 {0} 次"], score: ["Flake score", "不稳定分数"], fails_since: ["Fails since", "失败始于"], until: ["until {0}", "至 {0}"], for_ever: ["for ever", "永久"], expired: ["expired", "已过期"],
  recovered: ["passes again", "已恢复"], skip_case: ["Skip", "跳过"], enable: ["Enable", "启用"], reason_label: ["Reason", "原因"], days_label: ["For how many days (empty: for ever)", "多少天（留空：永久）"],
  changes: ["{0} changes in {1}", "{1} 次比较中变化 {0} 次"], no_flaky: ["No case is flaky, muted or skipped.", "没有不稳定、静默或跳过的用例。"], actions: ["Actions", "操作"], ago: ["{0} ago", "{0}前"],
  sure_mute: ["Mute {0}: it runs, and its failures do not count", "静默 {0}：照常运行，失败不计"], sure_skip: ["Skip {0}: it does not run", "跳过 {0}：不再运行"],
  download: ["Report", "报告"], kind_product: ["product", "产品缺陷"], kind_test: ["test", "测试问题"], kind_infrastructure: ["infrastructure", "基础设施"], kind_investigate: ["to investigate", "待调查"],
  longest: ["Longest", "最长"], mean: ["Mean", "平均"], slowest: ["Slowest", "最慢用例"], durations: ["Last durations", "最近用时"], spark: ["The last {0}: {1} to {2}", "最近 {0} 次：{1} 至 {2}"], trend_rising: ["rising by {0}", "上升 {0}"], trend_falling: ["falling by {0}", "下降 {0}"], trend_steady: ["steady", "平稳"],
  trend_unclear: ["no clear trend", "无明显趋势"], trend_unknown: ["too few to tell", "样本太少"], lease: ["Lease left", "租约剩余"], lease_why: ["It counts as lost when this is over; while it lives it prolongs it again and again", "到期即视为丢失；正常时会不断续期"], runs_here: ["Runs now", "正在执行"],
  at_revision: ["at revision", "修订号"], other_run: ["or run", "或运行"],
  muted_why: ["Its failures do not count", "失败不计"], task_page: ["This task", "此任务"], since_when: ["since", "始于"], assigned_to: ["with worker {0}, not begun", "已分配给执行机 {0}，尚未开始"], steps: ["Steps", "步骤"],
  typed: ["What you have typed is not saved. Esc once more throws it away.", "输入的内容尚未保存。再按一次 Esc 将放弃。"], no_connection: ["no connection since {0}", "自 {0} 起无连接"], silent: ["Nothing is heard of the scheduler.", "调度器没有响应。"], holds_for: ["{0} has held {1} for {2}", "{0} 已持有 {1} {2}"], holds_from: ["{0} has held {1} since revision {2}", "{0} 自修订号 {2} 起持有 {1}"],
  kind_why: ["How it looks, from how the tasks ended and the past of their cases. Nobody has judged it.", "根据任务结局与用例历史推断，尚无人判定。"], no_message: ["(no message)", "（无消息）"],
  lanes_more: ["and {0} more", "以及另外 {0} 个"], groups_more: ["The first {0} groups of {1} are shown.", "显示 {1} 组中的前 {0} 组。"], compare: ["Compare with", "对比"], compare_none: ["No other run has ended.", "没有其他已结束的运行。"],
  broken: ["newly failing", "新失败"], fixed: ["fixed", "已修复"], slower: ["slower", "变慢"], quicker: ["quicker", "变快"], added: ["only here", "仅在本次"], gone: ["only there", "仅在彼次"], no_difference: ["Nothing differs.", "没有差异。"],
  has_tasks: ["Tasks it has", "持有任务"], since: ["Since", "始于"], what: ["What", "类别"], median: ["Median", "中位数"], held: ["Held", "占用"], longest_wait: ["Longest wait", "最长等待"], release: ["Release", "强制释放"],
  sure_release: ["Take tag {0} from its holders: what they run under it is canceled", "强制收回标签 {0}：持有者正在执行的任务将被取消"], next_check: ["Next check", "下次检查"], last_check: ["Last check", "上次检查"], never: ["never", "从未"],
  sure_maintenance: ["Maintenance of {0}: nothing new starts there", "维护 {0}：不再启动新任务"], sure_delete_environment: ["Delete environment {0}? Open runs keep their copies.", "删除环境 {0}？进行中的运行保留其副本。"],
  colour_by: ["Colours", "着色"], by_outcome: ["by outcome", "按结果"], by_case: ["by case", "按用例"], by_gap: ["gaps by cause", "空隙按原因"], gap: ["idle", "空闲"], slot: ["slot {0}", "槽位 {0}"],
  timeline_keys: ["Left and right: attempts of a slot. Up and down: slots. Home, End. Enter opens the task.", "左右键：同一槽位的尝试。上下键：切换槽位。Home、End。回车打开任务。"],
  replay: ["Replay", "回放"], replay_at: ["{0} of {1} · {2} after the submit", "{0} / {1} · 提交后 {2}"], replay_step: ["Step", "步骤"], revision: ["revision {0}", "修订号 {0}"], play: ["Play", "播放"], stop: ["Stop", "停止"], runs_now: ["Running then", "当时运行"], tags_then: ["Tags held then", "当时占用的标签"],
  event_submitted: ["submitted: {0} tasks", "已提交：{0} 个任务"], event_start: ["{0} starts {1}", "{0} 开始 {1}"], event_end: ["{0} ends {1}: {2}", "{0} 结束 {1}：{2}"], event_again: ["{0} ends {1}: {2}, to be tried again", "{0} 结束 {1}：{2}，将重试"], event_over: ["the run ends: {0}", "运行结束：{0}"],
  replay_cut: ["The first {0} steps are shown; the {1} after them are left out.", "显示前 {0} 步；其后 {1} 步未显示。"], back_to_run: ["Back to the run", "返回运行"], no_page: ["There is no such page", "没有这个页面"], no_page_text: ["{0} names nothing that can be shown. Perhaps a part of the address was lost.", "{0} 不对应任何可显示的内容。地址可能不完整。"],
};

export let language = localStorage.getItem("language") || (navigator.language.startsWith("zh") ? "zh" : "en");

export function speak(next) {
  language = next;
  localStorage.setItem("language", next);
  document.documentElement.lang = next;
}

/** The word in the chosen language, with {0}, {1} filled in. An unknown key stands for itself. */
export function t(key, ...values) {
  const found = WORDS[key];
  const text = found ? found[language === "zh" ? 1 : 0] : key;
  return text.replace(/\{(\d)\}/g, (_, place) => values[place]);
}
